"""Contender of `benchmarks.decision`: a torouter router's `scores`.

python -m benchmarks.decision.torouter_router ROUTER ENGINE PRECISION ENCODER
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.decision.timed_worker import timed
from torouter import AutoRouter


def main() -> None:
    """Serve the checkpoint."""
    directory, engine, precision, _ = sys.argv[1:]
    options: dict[str, Any] = {"engine": engine, "precision": precision}
    if engine == "torch":
        import torch

        torch.set_num_threads(1)
    timed(AutoRouter.from_pretrained(directory, **options).scores)


if __name__ == "__main__":
    main()

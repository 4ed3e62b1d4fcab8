"""Three experts, without prices or with prices far apart, that the tests of policies choose between."""

from __future__ import annotations

from typing import Any

from torouter.experts import Expert, ExpertPool


def pool(**fields: dict[str, Any]) -> ExpertPool:
    return ExpertPool(
        [Expert(name=name, url=f"http://{name}.test", **fields.get(name, {})) for name in ("small", "code", "large")]
    )


PRICED = pool(
    small={"tags": ["edge"]},
    code={"input_price": 1.0, "output_price": 2.0},
    large={"input_price": 5.0, "output_price": 20.0},
)

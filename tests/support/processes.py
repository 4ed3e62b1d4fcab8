"""Python in a process of its own, where nothing has been imported yet."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )

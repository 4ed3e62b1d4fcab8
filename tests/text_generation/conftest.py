"""The fixture of the main tests' conftest.py that this environment can do without the train extra."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.scripted_tgi import ScriptedTGI


@pytest.fixture
def tgi() -> Iterator[ScriptedTGI]:
    """A scripted TGI server of the newest version."""
    with ScriptedTGI() as server:
        yield server

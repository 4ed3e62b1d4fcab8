"""The experts that the tests of RoutedLLM ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.llamaindex_world import World, world


@pytest.fixture(name="world")
def _world() -> Iterator[World]:
    with world() as made:
        yield made

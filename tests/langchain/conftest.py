"""The experts that the tests of RoutedChatModel ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.langchain_world import World, world


@pytest.fixture(name="world")
def _world() -> Iterator[World]:
    with world() as made:
        yield made

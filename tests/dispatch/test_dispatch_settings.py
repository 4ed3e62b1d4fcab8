"""Which settings of a dispatcher are refused, and that the error names the one that is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest

from torouter.dispatch import DispatchSettings
from torouter.errors import ConfigurationError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("deadline", 0),
        ("deadline", "soon"),
        ("attempt_share", 1.5),
        ("cooldown", -1),
        ("retry_ratio", math.nan),
        ("rounds", 0),
        ("max_concurrency", 0),
        ("max_concurrency", True),
        ("queue_seconds", math.inf),
        ("hedge_seconds", 0),
        ("hedge_seconds", math.inf),
    ],
)
def test_wrong_settings_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"DispatchSettings: {field}="):
        DispatchSettings(**{field: value})


def test_settings_from_a_mapping_refuse_unknown_keys() -> None:
    assert DispatchSettings.from_mapping({"deadline": 5}).deadline == 5
    with pytest.raises(ConfigurationError, match="'dedline'"):
        DispatchSettings.from_mapping({"dedline": 5})

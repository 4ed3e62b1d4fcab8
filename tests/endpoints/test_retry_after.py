"""What a server says of when to call it again reaches the caller's error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_torouter import ChatTGI
from tests.support.scripted_tgi import Raw, ScriptedTGI
from torouter import ExpertOverloadedError
from torouter.endpoints.retry_after import retry_after

NOW = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("5", 5.0), (" 7 ", 7.0), ("2.5", 2.5)])
def test_a_number_is_seconds(value: str, seconds: float) -> None:
    assert retry_after({"Retry-After": value}) == seconds


@given(st.integers(-100_000, 100_000))
def test_a_date_counts_from_now_and_never_below_zero(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after({"retry-after": date}, now=NOW) == max(0, seconds)


@given(st.text(max_size=40))
def test_no_value_raises(value: str) -> None:
    seconds = retry_after({"Retry-After": value}, now=NOW)
    assert seconds is None or seconds >= 0


def test_the_callers_error_carries_it(tgi: ScriptedTGI) -> None:
    tgi.always(Raw(429, {"Retry-After": "7"}))
    with pytest.raises(ExpertOverloadedError) as caught:
        ChatTGI(base_url=tgi.url, max_retries=0).invoke("hello")
    assert caught.value.retry_after == 7

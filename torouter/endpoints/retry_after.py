"""How long a server asks to be left alone, from the Retry-After header of its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds from now, never below 0; None where the header is missing or can't be read.

    Args:
        headers: The answer's headers.
        now: The time that an HTTP date counts from; by default the clock's.
    """
    value = headers.get("Retry-After") or headers.get("retry-after")
    if not isinstance(value, str):
        return None
    if re.fullmatch(
        r"\s*\d{1,9}(\.\d{0,9})?\s*", value, re.ASCII
    ):  # servers send fractions too, which HTTP does not allow
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000", which stands for UTC
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())

"""Another try after a passing failure, with a clock that moves only when a wait is over."""

from __future__ import annotations

import pytest

from torouter.errors import DeadlineExceededError, ExpertOverloadedError, ExpertRequestError, TORouterError
from torouter.runtime.retry import Retry


class Tries:
    """Fails with each of `errors` in turn, then answers; its clock moves with every wait."""

    def __init__(self, *errors: TORouterError) -> None:
        self.errors = list(errors)
        self.waits: list[float] = []
        self.count = 0

    async def __call__(self) -> str:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def retry(self, **options: float) -> Retry:
        return Retry(clock=lambda: sum(self.waits), sleep=self.sleep, draw=lambda: 1.0, **options)  # type: ignore[arg-type]


def busy(count: int) -> list[TORouterError]:
    return [ExpertOverloadedError("busy") for _ in range(count)]


async def test_waits_double_up_to_the_longest() -> None:
    tries = Tries(*busy(5))
    assert await tries.retry(retries=5, first=1, longest=5)(tries) == "answer"
    assert tries.waits == [1, 2, 4, 5, 5]


async def test_the_last_failure_is_raised_as_it_is() -> None:
    tries = Tries(*busy(3))
    last = tries.errors[-1]
    with pytest.raises(ExpertOverloadedError) as caught:
        await tries.retry(retries=2)(tries)
    assert caught.value is last
    assert tries.count == 3


async def test_no_wait_goes_beyond_the_calls_time() -> None:
    tries = Tries(*busy(9))
    with pytest.raises(ExpertOverloadedError):
        await tries.retry(retries=9, first=1, longest=8)(tries, seconds=4)
    assert tries.waits == [1, 2]


@pytest.mark.parametrize("error", [ExpertRequestError("wrong"), DeadlineExceededError("spent")])
async def test_what_a_retry_cannot_help_is_raised_at_once(error: TORouterError) -> None:
    tries = Tries(error)
    with pytest.raises(type(error)):
        await tries.retry(retries=3)(tries)
    assert tries.count == 1

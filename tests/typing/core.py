"""Experts, routers, decisions and errors without a framework."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import torouter
from torouter import (
    Attempt,
    AutoRouter,
    BertRouter,
    BestSingleRouter,
    Calibration,
    DispatchSettings,
    Expert,
    ExpertError,
    ExpertPool,
    Health,
    KNNRouter,
    NoExpertLeftError,
    OutcomeMatrix,
    ReplicaSnapshot,
    Requirements,
    RouteDecision,
    RoutedExperts,
    RouteQuery,
    Router,
    RoutingPolicy,
    Secret,
    Timeouts,
    calibrate,
    close_sessions,
    routing_text,
)


def a_version() -> str:
    return torouter.__version__


def a_wrong_name() -> None:
    _ = torouter.Exprt  # type: ignore[attr-defined]
    from torouter import AutoRuoter  # type: ignore[attr-defined]  # noqa: F401


def experts() -> ExpertPool:
    code = Expert(name="code", url="http://127.0.0.1:8080", api_key=Secret("token"), input_price=0.2)
    pool = ExpertPool([code])
    assert_type(pool["code"], Expert)
    assert_type(pool.names, tuple[str, ...])
    assert_type(ExpertPool.from_yaml("experts.yaml"), ExpertPool)
    Expert(name=1)  # type: ignore[arg-type]
    return pool


def loading(directory: Path) -> None:
    assert_type(AutoRouter.from_pretrained("owner/name", revision="main", local_files_only=True), Router)
    assert_type(AutoRouter.from_pretrained(directory, engine="torch", precision="fp32"), Router)
    assert_type(BertRouter.from_pretrained(directory), BertRouter)
    AutoRouter.from_pretrained(directory, engine="tensorrt")  # type: ignore[arg-type]
    AutoRouter.from_pretrained(directory, device="cpu")  # type: ignore[call-arg]


def scoring(router: Router, outcomes: OutcomeMatrix) -> None:
    assert_type(router.scores(["What is 2 + 3?"]), NDArray[np.float32])
    assert_type(router.experts, tuple[str, ...])
    assert_type(router.add_expert("new", outcomes), Router)
    assert_type(BestSingleRouter.fit(outcomes), BestSingleRouter)
    assert_type(router.save_pretrained("routers/bert"), Path)


def calibrating(router: Router, pool: ExpertPool, outcomes: OutcomeMatrix) -> RoutingPolicy:
    scores = router.scores(outcomes.queries)
    found = calibrate(RoutingPolicy(), pool, router.experts, scores=scores, quality=outcomes.scores, target_quality=0.8)
    assert_type(found, Calibration)
    assert_type(found.cloud_share, float | None)
    return found.policy


def deciding(router: KNNRouter, pool: ExpertPool) -> None:
    routed = RoutedExperts(
        router,
        pool,
        policy=RoutingPolicy(price_weight=0.05, exclude=frozenset({"chat"})),
        settings=DispatchSettings(deadline=20, handshake="refuse"),
        timeouts=Timeouts(connect=1),
    )
    with routing_text("the question"):
        decision = routed.decide(RouteQuery(text="the question", requirements=Requirements(tools=True)))
    assert_type(decision, RouteDecision)
    assert_type(decision.expert, str)
    assert_type(decision.scores, Mapping[str, float])
    assert_type(routed.health(), Health)
    assert_type(routed.health()[0], ReplicaSnapshot)


async def failing(pool: ExpertPool) -> None:
    try:
        pool["nobody"]
    except NoExpertLeftError as error:
        assert_type(error.attempts, tuple[Attempt, ...])
    except ExpertError as error:
        assert_type(error.status, int | None)
        assert_type(error.partial_text, str)
    await close_sessions()

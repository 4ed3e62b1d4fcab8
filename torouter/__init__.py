"""torouter: a trained router sends each query to the LLM expert that is expected to answer it best."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torouter.experts import Expert, ExpertPool
    from torouter.routers.baselines import BestSingleRouter, OracleRouter, RandomRouter
    from torouter.routers.bert import BertRouter
    from torouter.routers.fast import FastRouter
    from torouter.routers.knn import KNNRouter
    from torouter.routers.mlp import MLPRouter
    from torouter.routers.router import AutoRouter, Router
    from torouter.routing.decision import RouteDecision
    from torouter.routing.policy import RoutingPolicy
    from torouter.routing.routing_text import routing_text

# A name is imported when it is first asked for, so that `import torouter` costs next to nothing.
_HOME = {
    "AutoRouter": "torouter.routers.router",
    "BertRouter": "torouter.routers.bert",
    "BestSingleRouter": "torouter.routers.baselines",
    "Expert": "torouter.experts",
    "ExpertPool": "torouter.experts",
    "FastRouter": "torouter.routers.fast",
    "KNNRouter": "torouter.routers.knn",
    "MLPRouter": "torouter.routers.mlp",
    "OracleRouter": "torouter.routers.baselines",
    "RandomRouter": "torouter.routers.baselines",
    "RouteDecision": "torouter.routing.decision",
    "Router": "torouter.routers.router",
    "RoutingPolicy": "torouter.routing.policy",
    "routing_text": "torouter.routing.routing_text",
}

__all__ = [
    "AutoRouter",
    "BertRouter",
    "BestSingleRouter",
    "Expert",
    "ExpertPool",
    "FastRouter",
    "KNNRouter",
    "MLPRouter",
    "OracleRouter",
    "RandomRouter",
    "RouteDecision",
    "Router",
    "RoutingPolicy",
    "routing_text",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module 'torouter' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))

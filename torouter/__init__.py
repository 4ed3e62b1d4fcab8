"""torouter: a trained router sends each query to the LLM expert that is expected to answer it best."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torouter.experts import Expert, ExpertPool
    from torouter.routing.baselines import BestSingleRouter, OracleRouter, RandomRouter
    from torouter.routing.bert import BertRouter
    from torouter.routing.decision import RouteDecision
    from torouter.routing.fast import FastRouter
    from torouter.routing.knn import KNNRouter
    from torouter.routing.mlp import MLPRouter
    from torouter.routing.policy import RoutingPolicy
    from torouter.routing.router import AutoRouter, Router
    from torouter.routing.text import routing_text

# A name is imported when it is first asked for, so that `import torouter` costs next to nothing.
_HOME = {
    "AutoRouter": "torouter.routing.router",
    "BertRouter": "torouter.routing.bert",
    "BestSingleRouter": "torouter.routing.baselines",
    "Expert": "torouter.experts",
    "ExpertPool": "torouter.experts",
    "FastRouter": "torouter.routing.fast",
    "KNNRouter": "torouter.routing.knn",
    "MLPRouter": "torouter.routing.mlp",
    "OracleRouter": "torouter.routing.baselines",
    "RandomRouter": "torouter.routing.baselines",
    "RouteDecision": "torouter.routing.decision",
    "Router": "torouter.routing.router",
    "RoutingPolicy": "torouter.routing.policy",
    "routing_text": "torouter.routing.text",
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

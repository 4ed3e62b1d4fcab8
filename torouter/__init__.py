"""torouter: a trained router sends each query to the LLM expert that is expected to answer it best.

All that README and docs use can be imported from here. A name is loaded when it is first asked for, so that
`import torouter` costs next to nothing. What needs an extra says so when it is used, with the pip command.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torouter.chat import Attempt as Attempt
    from torouter.dispatch import AnswerFacts as AnswerFacts
    from torouter.dispatch import AttemptBegan as AttemptBegan
    from torouter.dispatch import AttemptEnded as AttemptEnded
    from torouter.dispatch import CallBegan as CallBegan
    from torouter.dispatch import CallEnded as CallEnded
    from torouter.dispatch import DispatchEvent as DispatchEvent
    from torouter.dispatch import DispatchHook as DispatchHook
    from torouter.dispatch import DispatchSettings as DispatchSettings
    from torouter.dispatch import ReplicaSnapshot as ReplicaSnapshot
    from torouter.endpoints import Timeouts as Timeouts
    from torouter.endpoints import close_sessions as close_sessions
    from torouter.errors import CheckpointError as CheckpointError
    from torouter.errors import CollectStoppedError as CollectStoppedError
    from torouter.errors import ConfigurationError as ConfigurationError
    from torouter.errors import ContextLengthError as ContextLengthError
    from torouter.errors import DeadlineExceededError as DeadlineExceededError
    from torouter.errors import ExpertAccessError as ExpertAccessError
    from torouter.errors import ExpertAuthenticationError as ExpertAuthenticationError
    from torouter.errors import ExpertConnectionError as ExpertConnectionError
    from torouter.errors import ExpertError as ExpertError
    from torouter.errors import ExpertGenerationError as ExpertGenerationError
    from torouter.errors import ExpertMismatchError as ExpertMismatchError
    from torouter.errors import ExpertNotFoundError as ExpertNotFoundError
    from torouter.errors import ExpertOverloadedError as ExpertOverloadedError
    from torouter.errors import ExpertPermissionError as ExpertPermissionError
    from torouter.errors import ExpertProtocolError as ExpertProtocolError
    from torouter.errors import ExpertRequestError as ExpertRequestError
    from torouter.errors import ExpertServerError as ExpertServerError
    from torouter.errors import ExpertTimeoutError as ExpertTimeoutError
    from torouter.errors import ExpertUnavailableError as ExpertUnavailableError
    from torouter.errors import MissingExtraError as MissingExtraError
    from torouter.errors import NLLUnavailableError as NLLUnavailableError
    from torouter.errors import NoExpertLeftError as NoExpertLeftError
    from torouter.errors import OutcomeTableError as OutcomeTableError
    from torouter.errors import TORouterError as TORouterError
    from torouter.errors import TruncatedReplyError as TruncatedReplyError
    from torouter.errors import UnknownExpertError as UnknownExpertError
    from torouter.evaluation.evaluator import Evaluation as Evaluation
    from torouter.evaluation.evaluator import evaluate as evaluate
    from torouter.evaluation.evaluator import leave_one_dataset_out as leave_one_dataset_out
    from torouter.evaluation.report import write_report as write_report
    from torouter.experts import Expert as Expert
    from torouter.experts import ExpertPool as ExpertPool
    from torouter.outcomes.collector import Pace as Pace
    from torouter.outcomes.collector import collect as collect
    from torouter.outcomes.labeller import label as label
    from torouter.outcomes.queries import Query as Query
    from torouter.outcomes.queries import read_queries as read_queries
    from torouter.outcomes.scorers import Scorer as Scorer
    from torouter.outcomes.scorers import get_scorer as get_scorer
    from torouter.outcomes.table import OutcomeTable as OutcomeTable
    from torouter.routers.baselines import BestSingleRouter as BestSingleRouter
    from torouter.routers.baselines import OracleRouter as OracleRouter
    from torouter.routers.baselines import RandomRouter as RandomRouter
    from torouter.routers.bert import BertRouter as BertRouter
    from torouter.routers.encoded import EncodedRouter as EncodedRouter
    from torouter.routers.fast import FastRouter as FastRouter
    from torouter.routers.knn import KNNRouter as KNNRouter
    from torouter.routers.mlp import MLPRouter as MLPRouter
    from torouter.routers.outcome_matrix import OutcomeMatrix as OutcomeMatrix
    from torouter.routers.router import AutoRouter as AutoRouter
    from torouter.routers.router import Router as Router
    from torouter.routers.soft_labels import soft_labels as soft_labels
    from torouter.routing.calibration import Calibration as Calibration
    from torouter.routing.calibration import calibrate as calibrate
    from torouter.routing.decision import RouteDecision as RouteDecision
    from torouter.routing.policy import RoutingPolicy as RoutingPolicy
    from torouter.routing.requirements import Requirements as Requirements
    from torouter.routing.routing_text import routing_text as routing_text
    from torouter.runtime.health import Health as Health
    from torouter.runtime.routed_experts import RoutedExperts as RoutedExperts
    from torouter.runtime.routed_experts import RouteQuery as RouteQuery
    from torouter.runtime.telemetry import OpenTelemetryHook as OpenTelemetryHook
    from torouter.secrets import Secret as Secret
    from torouter.training.arguments import TrainingArguments as TrainingArguments
    from torouter.training.trainer import train as train
    from torouter.version import __version__ as __version__

_NAMES = {
    "torouter.chat": ("Attempt",),
    "torouter.dispatch": (
        "AnswerFacts",
        "AttemptBegan",
        "AttemptEnded",
        "CallBegan",
        "CallEnded",
        "DispatchEvent",
        "DispatchHook",
        "DispatchSettings",
        "ReplicaSnapshot",
    ),
    "torouter.endpoints": ("Timeouts", "close_sessions"),
    "torouter.errors": (
        "CheckpointError",
        "CollectStoppedError",
        "ConfigurationError",
        "ContextLengthError",
        "DeadlineExceededError",
        "ExpertAccessError",
        "ExpertAuthenticationError",
        "ExpertConnectionError",
        "ExpertError",
        "ExpertGenerationError",
        "ExpertMismatchError",
        "ExpertNotFoundError",
        "ExpertOverloadedError",
        "ExpertPermissionError",
        "ExpertProtocolError",
        "ExpertRequestError",
        "ExpertServerError",
        "ExpertTimeoutError",
        "ExpertUnavailableError",
        "MissingExtraError",
        "NLLUnavailableError",
        "NoExpertLeftError",
        "OutcomeTableError",
        "TORouterError",
        "TruncatedReplyError",
        "UnknownExpertError",
    ),
    "torouter.evaluation.evaluator": ("Evaluation", "evaluate", "leave_one_dataset_out"),
    "torouter.evaluation.report": ("write_report",),
    "torouter.experts": ("Expert", "ExpertPool"),
    "torouter.outcomes.collector": ("Pace", "collect"),
    "torouter.outcomes.labeller": ("label",),
    "torouter.outcomes.queries": ("Query", "read_queries"),
    "torouter.outcomes.scorers": ("Scorer", "get_scorer"),
    "torouter.outcomes.table": ("OutcomeTable",),
    "torouter.routers.baselines": ("BestSingleRouter", "OracleRouter", "RandomRouter"),
    "torouter.routers.bert": ("BertRouter",),
    "torouter.routers.encoded": ("EncodedRouter",),
    "torouter.routers.fast": ("FastRouter",),
    "torouter.routers.knn": ("KNNRouter",),
    "torouter.routers.mlp": ("MLPRouter",),
    "torouter.routers.outcome_matrix": ("OutcomeMatrix",),
    "torouter.routers.router": ("AutoRouter", "Router"),
    "torouter.routers.soft_labels": ("soft_labels",),
    "torouter.routing.calibration": ("Calibration", "calibrate"),
    "torouter.routing.decision": ("RouteDecision",),
    "torouter.routing.policy": ("RoutingPolicy",),
    "torouter.routing.requirements": ("Requirements",),
    "torouter.routing.routing_text": ("routing_text",),
    "torouter.runtime.health": ("Health",),
    "torouter.runtime.routed_experts": ("RoutedExperts", "RouteQuery"),
    "torouter.runtime.telemetry": ("OpenTelemetryHook",),
    "torouter.secrets": ("Secret",),
    "torouter.training.arguments": ("TrainingArguments",),
    "torouter.training.trainer": ("train",),
    "torouter.version": ("__version__",),
}
"""Every public name, by the module that holds it: the imports above, for the run time. A test compares the two."""

if not TYPE_CHECKING:  # else a checker would take `__getattr__` as leave to import any name
    _HOME = {name: module for module, names in _NAMES.items() for name in names}
    __all__ = list(_HOME)

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(_unknown(name), name=name)
        value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})

    def _unknown(name):
        from difflib import get_close_matches  # for this message only

        close = get_close_matches(name, __all__)
        hint = f": did you mean {' or '.join(close)}?" if close else ""
        return f"module 'torouter' has no attribute {name!r}{hint}"

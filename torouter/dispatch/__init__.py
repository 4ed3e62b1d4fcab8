"""From a decision to an answer: the order of experts, their health and the deadline."""

from torouter.dispatch.dispatcher import Dispatcher, Served, ServedStream, Target
from torouter.dispatch.hooks import (
    AnswerFacts,
    AttemptBegan,
    AttemptEnded,
    CallBegan,
    CallEnded,
    DispatchEvent,
    DispatchHook,
)
from torouter.dispatch.replica import ReplicaSnapshot
from torouter.dispatch.settings import DispatchSettings

__all__ = [
    "AnswerFacts",
    "AttemptBegan",
    "AttemptEnded",
    "CallBegan",
    "CallEnded",
    "DispatchEvent",
    "DispatchHook",
    "DispatchSettings",
    "Dispatcher",
    "ReplicaSnapshot",
    "Served",
    "ServedStream",
    "Target",
]

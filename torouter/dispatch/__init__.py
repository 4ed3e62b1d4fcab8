"""Carries out decisions: calls the ranked experts in order, within one deadline, and tracks their health."""

from torouter.chat import AnswerFacts
from torouter.dispatch.answers import AnswerReader, Served, ServedStream, StartedStream, Target
from torouter.dispatch.dispatcher import Dispatcher
from torouter.dispatch.hooks import (
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
    "AnswerReader",
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
    "StartedStream",
    "Target",
]

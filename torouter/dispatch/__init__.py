"""From a decision to an answer: the order of experts, their health and the deadline."""

from torouter.dispatch.dispatcher import Dispatcher, Served, ServedStream, Target
from torouter.dispatch.health import ReplicaSnapshot
from torouter.dispatch.settings import DispatchSettings

__all__ = ["DispatchSettings", "Dispatcher", "ReplicaSnapshot", "Served", "ServedStream", "Target"]

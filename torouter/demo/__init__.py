"""The demo: real experts on this machine, a router trained on their outcomes, and a routed chain."""

from torouter.demo.server import forwarders, smollm2_server

__all__ = ["forwarders", "smollm2_server"]

"""A scripted Text Generation Inference server for tests, on a real loopback socket."""

from tests.support.scripted_tgi.replies import Fault, Raw, Text, ToolUse, ToolUses
from tests.support.scripted_tgi.server import Recorded, ScriptedTGI

__all__ = ["Fault", "Raw", "Recorded", "ScriptedTGI", "Text", "ToolUse", "ToolUses"]

"""One TGI endpoint, or any other server with `/v1/chat/completions`, in its own dialect."""

from torouter.tgi.client import TGIClient, Timeouts
from torouter.tgi.generation import Generation, ServerInfo
from torouter.tgi.sessions import close_sessions

__all__ = ["Generation", "ServerInfo", "TGIClient", "Timeouts", "close_sessions"]

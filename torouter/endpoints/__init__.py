"""Calls one server over HTTP in its own dialect: TGI, or any other server with `/v1/chat/completions`."""

from torouter.endpoints.client import TGIClient
from torouter.endpoints.generation import Generation
from torouter.endpoints.http_sessions import close_sessions
from torouter.endpoints.server_info import ServerInfo
from torouter.endpoints.timeouts import Timeouts
from torouter.experts import Expert

__all__ = ["Generation", "ServerInfo", "TGIClient", "Timeouts", "client_for", "close_sessions"]


def client_for(expert: Expert, *, url: str | None = None, timeouts: Timeouts | None = None) -> TGIClient:
    """The client that `expert.client` names, for one of the expert's urls, by default the first.

    Raises:
        ConfigurationError: `url` is not one of the expert's urls.
        MissingExtraError: The client's package is not installed.
    """
    if expert.client == "text-generation":
        from torouter.endpoints.text_generation_client import TextGenerationClient

        return TextGenerationClient(expert, url=url, timeouts=timeouts)
    return TGIClient(expert, url=url, timeouts=timeouts)

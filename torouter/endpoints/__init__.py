"""One TGI endpoint, or any other server with `/v1/chat/completions`, in its own dialect."""

from torouter.endpoints.client import TGIClient, Timeouts
from torouter.endpoints.generation import Generation, ServerInfo
from torouter.endpoints.http_sessions import close_sessions
from torouter.experts import Expert

__all__ = ["Generation", "ServerInfo", "TGIClient", "Timeouts", "client_for", "close_sessions"]


def client_for(expert: Expert, *, url: str | None = None, timeouts: Timeouts | None = None) -> TGIClient:
    """The client that `expert.client` names, for one of its urls, by default the first.

    Raises:
        ConfigurationError: The expert has no such url.
        MissingExtraError: The client is of a package that is not installed.
    """
    if expert.client == "text-generation":
        from torouter.endpoints.text_generation_client import TextGenerationClient

        return TextGenerationClient(expert, url=url, timeouts=timeouts)
    return TGIClient(expert, url=url, timeouts=timeouts)

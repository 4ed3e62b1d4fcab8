"""One TGI endpoint, or any other server with `/v1/chat/completions`, in its own dialect."""

from torouter.experts import Expert
from torouter.tgi.client import TGIClient, Timeouts
from torouter.tgi.generation import Generation, ServerInfo
from torouter.tgi.sessions import close_sessions

__all__ = ["Generation", "ServerInfo", "TGIClient", "Timeouts", "client_for", "close_sessions"]


def client_for(expert: Expert, *, url: str | None = None, timeouts: Timeouts | None = None) -> TGIClient:
    """The client that `expert.client` names, for one of its urls, by default the first.

    Raises:
        ConfigurationError: The expert has no such url.
        MissingExtraError: The client is of a package that is not installed.
    """
    if expert.client == "text-generation":
        from torouter.tgi.text_generation_client import TextGenerationClient

        return TextGenerationClient(expert, url=url, timeouts=timeouts)
    return TGIClient(expert, url=url, timeouts=timeouts)

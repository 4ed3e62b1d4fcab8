"""torouter for LangChain: `RoutedChatModel` and `ChatTGI`."""

try:
    import langchain_core  # noqa: F401 - only to name the command that installs it
except ImportError as error:
    from torouter.errors import MissingExtraError

    msg = "langchain_torouter needs langchain-core: pip install 'torouter[langchain]'"
    raise MissingExtraError(msg) from error

from langchain_torouter.chat_tgi import ChatTGI
from langchain_torouter.routed import RoutedChatModel

__all__ = ["ChatTGI", "RoutedChatModel"]

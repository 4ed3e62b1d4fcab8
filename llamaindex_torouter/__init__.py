"""torouter for LlamaIndex: `RoutedLLM`, `TGILLM` and `TORouterSelector`."""

try:
    import llama_index.core  # noqa: F401 - only to name the command that installs it
except ImportError as error:
    from torouter.errors import MissingExtraError

    msg = "llamaindex_torouter needs llama-index-core: pip install 'torouter[llamaindex]'"
    raise MissingExtraError(msg) from error

from llamaindex_torouter.events import RouteDecisionEvent, RouteServedEvent
from llamaindex_torouter.routed import RoutedLLM
from llamaindex_torouter.selector import TORouterSelector
from llamaindex_torouter.tgi_llm import TGILLM

__all__ = ["TGILLM", "RouteDecisionEvent", "RouteServedEvent", "RoutedLLM", "TORouterSelector"]

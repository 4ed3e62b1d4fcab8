"""All of torouter's exceptions, split by what the caller does about them.

TORouterError
├── ConfigurationError        correct the argument, file or field it names
│   └── UnknownExpertError    no expert of the pool has this name
├── OutcomeTableError         correct the row and column it names
├── CheckpointError           the router's directory can't be used as it is
├── MissingExtraError         run the pip command it gives
├── CollectStoppedError       fix what its cause says and start `collect` again: finished cells are kept
├── NLLUnavailableError       the server gives no log-probabilities of a prompt's tokens
├── NoExpertLeftError         every expert was tried, `attempts` says how each failed
│   └── DeadlineExceededError the one deadline over all attempts is spent
└── ExpertError               one expert failed to answer
    ├── ExpertUnavailableError    ask the next expert at once; the failed one cools down
    │   ├── ExpertConnectionError, ExpertTimeoutError, ExpertOverloadedError,
    │   ├── ExpertGenerationError, ExpertServerError, ExpertProtocolError
    │   └── TruncatedReplyError
    ├── ExpertAccessError         ask the next expert; the failed one cools down for long
    │   ├── ExpertAuthenticationError, ExpertPermissionError, ExpertNotFoundError
    │   └── ExpertMismatchError
    ├── ContextLengthError        ask an expert with a larger window; nobody cools down
    └── ExpertRequestError        the request is wrong: no other expert is asked
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torouter.chat import Attempt

E = TypeVar("E", bound="TORouterError")


class TORouterError(Exception):
    """Base of every exception that torouter raises on purpose."""

    def converted(self, kind: type[E]) -> E:
        """The same error, message and attributes, as an instance of a subclass of its class."""
        other = kind.__new__(kind, *self.args)
        other.args = self.args
        other.__dict__.update(self.__dict__)
        return other


class ConfigurationError(TORouterError, ValueError):
    """An argument, a file or a field is wrong; the message names it, its value and the fix."""


class UnknownExpertError(ConfigurationError, KeyError):
    """A name that no expert of the pool has. It is a KeyError too, so that the pool keeps a Mapping's contract."""

    __str__ = Exception.__str__  # KeyError's shows the repr of the message


class OutcomeTableError(TORouterError, ValueError):
    """An outcome table is wrong; the message names the row, the column and the fix."""


class CheckpointError(TORouterError):
    """A router's checkpoint can't be loaded or does not fit."""


class MissingExtraError(TORouterError, ImportError):
    """An optional dependency is not installed; the message is the pip command that brings it."""


class CollectStoppedError(TORouterError):
    """One expert made it useless to go on. What was finished is in the journal; its cause is the expert's error."""


class NLLUnavailableError(TORouterError):
    """The expert's server gives no log-probabilities of a prompt's tokens."""


class ExpertError(TORouterError):
    """One expert failed to answer one request.

    Attributes:
        expert: Name of the expert that failed.
        status: HTTP status, None where the failure was not an HTTP answer.
        error_type: The server's own name of the error (`overloaded`, `validation`, ...).
        body: The start of the server's answer. It may quote the prompt, so it is kept out of the message.
        partial_text: What had been streamed before the failure, "" if nothing was.
    """

    def __init__(
        self,
        message: str,
        *,
        expert: str = "",
        status: int | None = None,
        error_type: str | None = None,
        body: str = "",
        partial_text: str = "",
    ) -> None:
        super().__init__(message)
        self.expert = expert
        self.status = status
        self.error_type = error_type
        self.body = body
        self.partial_text = partial_text


class ExpertUnavailableError(ExpertError):
    """The expert can't answer now; another one, or the same one later, may."""


class ExpertConnectionError(ExpertUnavailableError, ConnectionError):
    """No connection could be made, or it broke before an answer came."""


class ExpertTimeoutError(ExpertUnavailableError, TimeoutError):
    """Connecting, the first byte, the next event or the whole answer took too long."""


class ExpertOverloadedError(ExpertUnavailableError):
    """The expert refuses work for now (TGI: 429 `overloaded`)."""


class ExpertGenerationError(ExpertUnavailableError):
    """Generation failed inside the server (TGI: 424 `generation`, 500 `incomplete_generation`)."""


class ExpertServerError(ExpertUnavailableError):
    """Any other 5xx, of the server or of a proxy before it."""


class ExpertProtocolError(ExpertUnavailableError):
    """The answer is not what the contract says: not JSON, too large, or an empty answer to a request for tools."""


class TruncatedReplyError(ExpertUnavailableError):
    """The stream ended without `[DONE]` or a finish reason: half an answer is never handed over as whole."""


class ExpertAccessError(ExpertError):
    """The expert will not serve us before somebody mends its configuration."""


class ExpertAuthenticationError(ExpertAccessError):
    """401: the token is missing or wrong."""


class ExpertPermissionError(ExpertAccessError):
    """403: the token has no right to this expert."""


class ExpertNotFoundError(ExpertAccessError):
    """404 or 405: no such path or no such model at this url."""


class ExpertMismatchError(ExpertNotFoundError):
    """The expert's server serves another model than the router was trained for, or than the expert's description says.

    Raised with `DispatchSettings(handshake="refuse")` only.
    """


class ContextLengthError(ExpertError):
    """The input does not fit into the expert's context window."""


class ExpertRequestError(ExpertError, ValueError):
    """The request itself is wrong (any other 4xx): asking another expert would not help."""


class NoExpertLeftError(TORouterError):
    """No expert could answer.

    Attributes:
        attempts: One `Attempt` for each expert that was asked, in order, with its error.
    """

    def __init__(self, message: str, attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class DeadlineExceededError(NoExpertLeftError, TimeoutError):
    """The deadline over all attempts was spent before an expert answered."""

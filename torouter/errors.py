"""All of torouter's exceptions, split by what the caller does about them.

TORouterError
├── ConfigurationError        correct the argument, file or field that it names
│   └── UnknownExpertError    use the name of an expert in the pool
├── OutcomeTableError         correct the row and column that it names
├── CheckpointError           give another directory, or train the router again
├── MissingExtraError         run the pip command that it gives
├── CollectStoppedError       fix its cause and start `collect` again: finished cells are kept
├── NLLUnavailableError       start the server with log-probabilities of prompts, or leave `nll` out
├── NoExpertLeftError         read `attempts`, how each expert failed, and try again later
│   └── DeadlineExceededError the same, or give a longer deadline
└── ExpertError               one expert failed to answer
    ├── ExpertUnavailableError    ask the next expert at once; the failed one cools down
    │   ├── ExpertConnectionError, ExpertTimeoutError, ExpertOverloadedError,
    │   ├── ExpertGenerationError, ExpertServerError, ExpertProtocolError
    │   └── TruncatedReplyError
    ├── ExpertAccessError         ask the next expert; the failed one cools down for a long time
    │   ├── ExpertAuthenticationError, ExpertPermissionError, ExpertNotFoundError
    │   └── ExpertMismatchError
    ├── ContextLengthError        ask an expert with a larger context window; no cool-down
    └── ExpertRequestError        correct the request: no other expert is asked
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
    """No expert of the pool has this name. It is a KeyError too, since the pool is a Mapping."""

    __str__ = Exception.__str__  # KeyError's own shows the repr of the message


class OutcomeTableError(TORouterError, ValueError):
    """An outcome table is wrong; the message names the row, the column and the fix."""


class CheckpointError(TORouterError):
    """A router's checkpoint can't be loaded, or its files do not fit together."""


class MissingExtraError(TORouterError, ImportError):
    """An optional dependency is not installed; the message gives the pip command that installs it."""


class CollectStoppedError(TORouterError):
    """`collect` stopped because of one expert, whose error is the cause; finished cells are in the journal."""


class NLLUnavailableError(TORouterError):
    """The expert's server returns no log-probabilities of a prompt's tokens."""


class ExpertError(TORouterError):
    """One expert failed to answer one request.

    Attributes:
        expert: Name of the expert that failed.
        status: HTTP status, None if the failure was not an HTTP answer.
        error_type: The server's own name of the error (`overloaded`, `validation`, ...).
        body: The start of the server's answer. It may quote the prompt, so it is kept out of the message.
        partial_text: The text that was streamed before the failure, "" if none was.
        retry_after: Seconds after which the server asks to be called again, None where it states none.
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
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.expert = expert
        self.status = status
        self.error_type = error_type
        self.body = body
        self.partial_text = partial_text
        self.retry_after = retry_after


class ExpertUnavailableError(ExpertError):
    """The expert can't answer now; another expert may, and so may this one later."""


class ExpertConnectionError(ExpertUnavailableError, ConnectionError):
    """No connection could be made, or it broke before an answer came."""


class ExpertTimeoutError(ExpertUnavailableError, TimeoutError):
    """Connecting, the first byte, the next event or the whole answer took too long."""


class ExpertOverloadedError(ExpertUnavailableError):
    """The expert is overloaded and refuses requests for now (TGI: 429 `overloaded`)."""


class ExpertGenerationError(ExpertUnavailableError):
    """Generation failed inside the server (TGI: 424 `generation`, 500 `incomplete_generation`)."""


class ExpertServerError(ExpertUnavailableError):
    """Any other 5xx, from the server or from a proxy in front of it."""


class ExpertProtocolError(ExpertUnavailableError):
    """The answer breaks the API's contract: not JSON, too large, or empty although tools were requested."""


class TruncatedReplyError(ExpertUnavailableError):
    """The answer was cut, as a stream without `[DONE]` or a finish reason: it is never returned as if it were whole."""


class ExpertAccessError(ExpertError):
    """The expert will refuse every request until its configuration is corrected."""


class ExpertAuthenticationError(ExpertAccessError):
    """401: the token is missing or wrong."""


class ExpertPermissionError(ExpertAccessError):
    """403: the token is not allowed to use this expert."""


class ExpertNotFoundError(ExpertAccessError):
    """404 or 405: this url has no such path or no such model."""


class ExpertMismatchError(ExpertNotFoundError):
    """The server serves a model other than the one the router was trained for, or that the expert's fields name.

    Raised only with `DispatchSettings(handshake="refuse")`.
    """


class ContextLengthError(ExpertError):
    """The input does not fit into the expert's context window."""


class ExpertRequestError(ExpertError, ValueError):
    """The request itself is wrong (any other 4xx), so that another expert would refuse it too."""


class NoExpertLeftError(TORouterError):
    """No expert could answer.

    Attributes:
        attempts: One `Attempt` for each expert that was asked, in order, with its error.
    """

    def __init__(self, message: str, attempts: Sequence[Attempt] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class DeadlineExceededError(NoExpertLeftError, TimeoutError):
    """The deadline over all attempts passed before an expert answered."""

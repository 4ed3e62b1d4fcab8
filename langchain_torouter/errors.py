"""torouter's errors as LangChain's: each class is both, so code that catches either keeps working."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)

from torouter import errors
from torouter.runtime import framework_models


class TORouterRateLimitError(errors.ExpertOverloadedError, ModelRateLimitError):
    """The expert refuses work for now."""


class TORouterAPIError(errors.ExpertUnavailableError, ModelAPIError):
    """The expert failed in a way that has no class of its own."""


class TORouterGenerationError(errors.ExpertGenerationError, ModelAPIError):
    """Generation failed inside the expert's server; `partial_text` holds what had come."""


class TORouterServerError(errors.ExpertServerError, ModelAPIError):
    """The expert's server, or a proxy before it, answered with a 5xx."""


class TORouterProtocolError(errors.ExpertProtocolError, ModelAPIError):
    """The expert's answer is not what its API promises."""


class TORouterConnectionError(errors.ExpertConnectionError, ModelConnectionError):
    """The expert can't be reached."""


class TORouterTimeoutError(errors.ExpertTimeoutError, ModelTimeoutError):
    """The expert took too long."""


class TORouterTruncatedReplyError(errors.TruncatedReplyError, ModelAPIError):
    """The answer broke off; `partial_text` holds its beginning."""


class TORouterAuthenticationError(errors.ExpertAuthenticationError, ModelAuthenticationError):
    """The expert's token is missing or wrong."""


class TORouterPermissionError(errors.ExpertPermissionError, ModelPermissionDeniedError):
    """The expert's token has no right to it."""


class TORouterNotFoundError(errors.ExpertNotFoundError, ModelNotFoundError):
    """The expert's server has no such path or model."""


class TORouterContextOverflowError(errors.ContextLengthError, ContextOverflowError):
    """The input does not fit into the expert's context window."""


class TORouterInvalidRequestError(errors.ExpertRequestError, ModelInvalidRequestError):
    """The request is wrong for any expert."""


class TORouterNoExpertLeftError(errors.NoExpertLeftError, ModelAPIError):
    """Every expert was asked and none could answer; `attempts` says how each failed."""


class TORouterDeadlineError(errors.DeadlineExceededError, ModelTimeoutError):
    """The deadline over all attempts was spent."""


_LEAVES: dict[type, type[errors.TORouterError]] = {
    leaf.__bases__[0]: leaf
    for leaf in (
        *(TORouterRateLimitError, TORouterAPIError, TORouterGenerationError, TORouterServerError),
        *(TORouterProtocolError, TORouterConnectionError, TORouterTimeoutError, TORouterTruncatedReplyError),
        *(TORouterAuthenticationError, TORouterPermissionError, TORouterNotFoundError, TORouterContextOverflowError),
        *(TORouterInvalidRequestError, TORouterNoExpertLeftError, TORouterDeadlineError),
    )
}
"""By torouter's class; an error gets the leaf of the nearest class above it."""


def as_langchain(error: errors.TORouterError) -> Exception:
    """The same error with LangChain's class added; an error that LangChain has no class for is returned as it is."""
    leaf = next((leaf for kind in type(error).__mro__ if (leaf := _LEAVES.get(kind)) is not None), None)
    return error if leaf is None else error.converted(leaf)


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Turn torouter's errors that leave the block into LangChain's."""
    try:
        yield
    except errors.TORouterError as error:
        mapped = as_langchain(error)
        if mapped is error:
            raise
        raise mapped from error


def as_expert_error(error: Exception, expert: str) -> errors.ExpertError | None:
    """What a failure of a LangChain model means for failover, None where it is not a model's failure but a bug."""
    for theirs, ours in _FOREIGN_ERRORS:
        if isinstance(error, theirs) and not isinstance(error, errors.ExpertError):
            return ours(f"expert {expert!r}: {type(error).__name__}", expert=expert)
    return framework_models.as_expert_error(error, expert)


_FOREIGN_ERRORS: tuple[tuple[type[Exception], type[errors.ExpertError]], ...] = (
    (ModelRateLimitError, errors.ExpertOverloadedError),
    (ModelTimeoutError, errors.ExpertTimeoutError),
    (ModelConnectionError, errors.ExpertConnectionError),
    (ModelAPIError, errors.ExpertServerError),
    (ModelAuthenticationError, errors.ExpertAuthenticationError),
    (ModelPermissionDeniedError, errors.ExpertPermissionError),
    (ModelNotFoundError, errors.ExpertNotFoundError),
    (ContextOverflowError, errors.ContextLengthError),
    (ModelInvalidRequestError, errors.ExpertRequestError),
)

"""Errors that are both torouter's and LangChain's, so that code which catches either class works."""

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
    """The expert is overloaded and refuses requests for now."""


class TORouterAPIError(errors.ExpertUnavailableError, ModelAPIError):
    """The expert failed in a way that has no more specific class."""


class TORouterGenerationError(errors.ExpertGenerationError, ModelAPIError):
    """Generation failed inside the expert's server; `partial_text` holds the text until then."""


class TORouterServerError(errors.ExpertServerError, ModelAPIError):
    """The expert's server, or a proxy in front of it, answered with a 5xx."""


class TORouterProtocolError(errors.ExpertProtocolError, ModelAPIError):
    """The expert's answer breaks its API's contract."""


class TORouterConnectionError(errors.ExpertConnectionError, ModelConnectionError):
    """The expert can't be reached."""


class TORouterTimeoutError(errors.ExpertTimeoutError, ModelTimeoutError):
    """The expert took too long."""


class TORouterTruncatedReplyError(errors.TruncatedReplyError, ModelAPIError):
    """The answer was cut; `partial_text` holds its beginning."""


class TORouterAuthenticationError(errors.ExpertAuthenticationError, ModelAuthenticationError):
    """The expert's token is missing or wrong."""


class TORouterPermissionError(errors.ExpertPermissionError, ModelPermissionDeniedError):
    """The expert's token is not allowed to use it."""


class TORouterNotFoundError(errors.ExpertNotFoundError, ModelNotFoundError):
    """The expert's server does not have this path or model."""


class TORouterContextOverflowError(errors.ContextLengthError, ContextOverflowError):
    """The input is too long for the expert's context window."""


class TORouterInvalidRequestError(errors.ExpertRequestError, ModelInvalidRequestError):
    """The request is wrong, whichever expert gets it."""


class TORouterNoExpertLeftError(errors.NoExpertLeftError, ModelAPIError):
    """No expert could answer; `attempts` lists how each failed."""


class TORouterDeadlineError(errors.DeadlineExceededError, ModelTimeoutError):
    """The deadline of the whole call is spent."""


_LEAVES: dict[type, type[errors.TORouterError]] = {
    leaf.__bases__[0]: leaf
    for leaf in (
        *(TORouterRateLimitError, TORouterAPIError, TORouterGenerationError, TORouterServerError),
        *(TORouterProtocolError, TORouterConnectionError, TORouterTimeoutError, TORouterTruncatedReplyError),
        *(TORouterAuthenticationError, TORouterPermissionError, TORouterNotFoundError, TORouterContextOverflowError),
        *(TORouterInvalidRequestError, TORouterNoExpertLeftError, TORouterDeadlineError),
    )
}
"""The class to raise, by torouter's class; a subclass without an entry uses that of its nearest base."""


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Give torouter's errors that leave the block LangChain's classes too, where LangChain has one."""
    try:
        yield
    except errors.TORouterError as error:
        leaf = next((leaf for kind in type(error).__mro__ if (leaf := _LEAVES.get(kind)) is not None), None)
        if leaf is None:
            raise
        raise error.converted(leaf) from error


def as_expert_error(error: Exception, expert: str) -> errors.ExpertError | None:
    """The expert's error that a LangChain model's exception stands for, None where it is a bug."""
    for langchain_class, expert_class in _EXPERT_ERRORS:
        if isinstance(error, langchain_class) and not isinstance(error, errors.ExpertError):
            return expert_class(f"expert {expert!r}: {type(error).__name__}", expert=expert)
    return framework_models.as_expert_error(error, expert)


_EXPERT_ERRORS: tuple[tuple[type[Exception], type[errors.ExpertError]], ...] = (
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

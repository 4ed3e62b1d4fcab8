"""A string whose value only `get_secret_value()` shows."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class SupportsSecret(Protocol):
    """The interface that pydantic's SecretStr and our own `Secret` share."""

    def get_secret_value(self) -> str: ...


class Secret:
    """Holds a token; its repr, str and format are masked. The base install has no pydantic, hence this class."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('**********')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(("torouter.Secret", self._value))

    def __reduce__(self) -> tuple[object, ...]:
        # A pickled token would leave this process in plain text.
        msg = "a Secret can't be pickled: build the expert anew in the process that needs it"
        raise TypeError(msg)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

"""Reads a server's JSON without trusting it: the object, or the error that it is, and typed fields of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torouter.endpoints.error_mapping import error_in_answer, is_error
from torouter.errors import ExpertProtocolError


def parse_object(expert: str, data: bytes) -> Mapping[str, Any]:
    """A body, or the data of one event, as a JSON object.

    Raises:
        ExpertProtocolError: It is not a JSON object.
        ExpertError: It is an error, see `error_mapping.error_in_answer`.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        text = data[:200].decode("utf-8", errors="replace")
        msg = f"expert {expert!r} answers with something other than a JSON object"
        raise ExpertProtocolError(msg, expert=expert, body=text)
    if is_error(value):
        raise error_in_answer(expert, value)
    return value


def string_field(value: Mapping[str, Any], name: str) -> str | None:
    """The field if it is a string, else None."""
    field = value.get(name)
    return field if isinstance(field, str) else None


def integer_field(value: Mapping[str, Any], name: str) -> int | None:
    """The field if it is an integer and no boolean, else None."""
    field = value.get(name)
    return field if isinstance(field, int) and not isinstance(field, bool) else None


def object_list(value: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], ...]:
    """The objects in the field's list, empty where the field is not a list."""
    field = value.get(name)
    return tuple(entry for entry in field if isinstance(entry, Mapping)) if isinstance(field, list) else ()

"""What a server reports about its model and limits, from TGI's `/info` or another server's `/v1/models`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torouter.endpoints.json_fields import integer_field, object_list, parse_object, string_field
from torouter.errors import ExpertProtocolError


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server reports about itself; what it does not report is None.

    Attributes:
        model_id: Id of the served model.
        version: TGI's version.
        max_input_tokens: Most input tokens of one request.
        max_total_tokens: Most tokens of one request, input and output together.
        max_concurrent_requests: Requests that the whole server handles at once; one more is refused.
        raw: The whole report.
    """

    model_id: str | None
    version: str | None
    max_input_tokens: int | None
    max_total_tokens: int | None
    max_concurrent_requests: int | None
    raw: Mapping[str, Any]


def server_info_from_tgi(expert: str, data: bytes) -> ServerInfo:
    """Read the body of `/info`, in the keys of TGI 3 or in those of 1 and 2.

    Raises:
        ExpertError: It is an error, or not a JSON object.
    """
    info = parse_object(expert, data)
    return ServerInfo(
        string_field(info, "model_id"),
        string_field(info, "version"),
        integer_field(info, "max_input_tokens") or integer_field(info, "max_input_length"),
        integer_field(info, "max_total_tokens"),
        integer_field(info, "max_concurrent_requests"),
        info,
    )


def server_info_from_models(expert: str, model: str | None, data: bytes) -> ServerInfo:
    """Read the body of `/v1/models`: the entry of `model` if it is listed, else the first.

    vLLM reports the context window as `max_model_len`, llama.cpp as `meta.n_ctx`.

    Raises:
        ExpertProtocolError: The list is empty.
        ExpertError: It is an error, or not a JSON object.
    """
    models = object_list(parse_object(expert, data), "data")
    if not models:
        msg = f"expert {expert!r} lists no model"
        raise ExpertProtocolError(msg, expert=expert)
    info = next((entry for entry in models if entry.get("id") == model), models[0])
    meta = info.get("meta")
    window = integer_field(info, "max_model_len") or (
        integer_field(meta, "n_ctx") if isinstance(meta, Mapping) else None
    )
    return ServerInfo(string_field(info, "id"), None, None, window, None, info)

"""How the answers of TGI's own routes are read."""

import json

import pytest

from torouter import errors
from torouter.endpoints.generation import GenerationStream, parse_generation
from torouter.endpoints.server_info import server_info_from_models, server_info_from_tgi
from torouter.errors import ExpertProtocolError, TruncatedReplyError


def token(text, special=False, **more):
    fields = {"id": 1, "text": text, "logprob": -0.5, "special": special}
    return json.dumps({"index": 1, "token": fields, "generated_text": None, "details": None, **more}).encode()


def test_a_generation_with_details():
    details = {
        "finish_reason": "eos_token",
        "generated_tokens": 2,
        "prefill": [{"id": 5, "text": "Hi", "logprob": None}],
    }
    details["tokens"] = [{"id": 1, "text": " a", "logprob": -0.1, "special": False}]
    data = json.dumps({"generated_text": " a", "details": details}).encode()
    for form in (data, b"[" + data + b"]"):
        got = parse_generation("code", (), form)
        assert (got.text, got.finish_reason, got.generated_tokens) == (" a", "stop", 2)
        assert (got.tokens[0]["text"], got.prefill[0]["text"]) == (" a", "Hi")


def test_a_generation_is_cut_at_a_stop_sequence():
    assert parse_generation("code", ("X",), b'{"generated_text": "a X"}').text == "a "


def test_a_generation_stream():
    stream = GenerationStream("code", ())
    last = token("</s>", special=True, generated_text="a b", details={"finish_reason": "length", "generated_tokens": 3})
    steps = [step for data in (token("a"), token(" b"), last) if (step := stream.feed(data))]
    end = stream.close()
    assert [step.text for step in (*steps, end)] == ["a", " b", ""]
    assert (end.finish_reason, end.generated_tokens, len(end.tokens)) == ("length", 3, 1)


def test_a_generation_stream_without_its_end_is_truncated():
    stream = GenerationStream("code", ())
    stream.feed(token("a"))
    with pytest.raises(TruncatedReplyError):
        stream.close()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (
            b'{"error": "Incomplete generation stream", "error_type": "incomplete_generation_stream"}',
            errors.ExpertGenerationError,
        ),
        (b'{"choices": []}', ExpertProtocolError),
    ],
)
def test_an_error_in_a_generation_stream(data, kind):
    with pytest.raises(kind):
        GenerationStream("code", ()).feed(data)


@pytest.mark.parametrize("key", ["max_input_tokens", "max_input_length"])
def test_info_in_both_styles(key):
    report = {"model_id": "m", "version": "3.3.6", key: 10, "max_total_tokens": 20, "max_concurrent_requests": 128}
    info = server_info_from_tgi("code", json.dumps(report).encode())
    assert (info.model_id, info.version, info.max_input_tokens, info.max_total_tokens) == ("m", "3.3.6", 10, 20)
    assert (info.max_concurrent_requests, info.raw) == (128, report)


def test_info_of_servers_that_list_models():
    models = b'{"data": [{"id": "a", "meta": {"n_ctx": 2048}}, {"id": "b", "max_model_len": 4096}]}'
    assert server_info_from_models("code", "b", models).max_total_tokens == 4096
    first = server_info_from_models("code", None, models)
    assert (first.model_id, first.max_total_tokens) == ("a", 2048)
    with pytest.raises(ExpertProtocolError, match="no model"):
        server_info_from_models("code", None, b'{"data": []}')

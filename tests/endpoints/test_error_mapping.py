"""How a refusal is classified, by its status or by its text, and what of it a message may show."""

import json

import pytest

from torouter import errors
from torouter.endpoints.error_mapping import error_from_response, error_in_answer


def tgi_error(text, error_type="validation"):
    return json.dumps({"error": text, "error_type": error_type})


LONG = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 500"


def other_error(message, **more):
    """vLLM's and llama.cpp's form; SGLang's is the same without the outer object."""
    return json.dumps({"error": {"message": message, **more}})


REFUSALS = [
    # TGI
    (422, tgi_error("Input validation error: `temperature` must be strictly positive"), "ExpertRequestError"),
    (422, tgi_error(LONG), "ContextLengthError"),
    (422, tgi_error("Input validation error: `inputs` must have less than 9 tokens. Given: 11"), "ContextLengthError"),
    (422, tgi_error("Template error: no template", "template_error"), "ExpertRequestError"),
    (422, tgi_error("Tool error: Tool with name x not found", "tool_error"), "ExpertRequestError"),
    (422, tgi_error("Tool error: Failed to parse generated text: EOF", "tool_error"), "TruncatedReplyError"),
    (424, tgi_error("Request failed during generation: Server error: OOM", "generation"), "ExpertGenerationError"),
    (429, tgi_error("Model is overloaded", "overloaded"), "ExpertOverloadedError"),
    (500, tgi_error("Incomplete generation", "incomplete_generation"), "ExpertGenerationError"),
    (503, tgi_error("unhealthy", "healthcheck"), "ExpertServerError"),
    (400, "Failed to parse the request body as JSON: EOF", "ExpertRequestError"),
    (413, "Failed to buffer the request body: length limit exceeded", "ContextLengthError"),
    (415, "Expected request with `Content-Type: application/json`", "ExpertRequestError"),
    (422, "Failed to deserialize the JSON body into the target type: stop: invalid type", "ExpertRequestError"),
    (401, "", "ExpertAuthenticationError"),
    (403, "", "ExpertPermissionError"),
    (404, "", "ExpertNotFoundError"),
    (405, "", "ExpertNotFoundError"),
    # proxies
    (408, "", "ExpertTimeoutError"),
    (502, "<html>Bad Gateway</html>", "ExpertServerError"),
    (503, "", "ExpertServerError"),
    (504, "upstream timed out", "ExpertServerError"),
    # vLLM
    (400, other_error("This model's maximum context length is 10 tokens.", code=400), "ContextLengthError"),
    (400, other_error("The prompt is longer than the maximum model length of 8."), "ContextLengthError"),
    (404, other_error("The model `x` does not exist.", type="NotFoundError", code=404), "ExpertNotFoundError"),
    (401, '{"error":"Unauthorized"}', "ExpertAuthenticationError"),
    # SGLang
    (400, '{"object":"error","message":"longer than the model\'s context length (8 tokens)."}', "ContextLengthError"),
    (400, '{"object":"error","message":"bad","type":"BadRequestError","code":400}', "ExpertRequestError"),
    # llama.cpp
    (400, other_error("too large", code=400, type="exceed_context_size_error"), "ContextLengthError"),
    (503, other_error("Loading model", code=503, type="unavailable_error"), "ExpertServerError"),
    # transformers serve
    (422, '{"detail":"Unexpected keys in the request"}', "ExpertRequestError"),
    (422, '{"detail":[{"loc":["body"],"msg":"bad"}]}', "ExpertRequestError"),
    # whatever else
    (204, "", "ExpertProtocolError"),
    (418, "[" * 100_000, "ExpertRequestError"),
    (500, "null", "ExpertServerError"),
]


@pytest.mark.parametrize(("status", "text", "kind"), REFUSALS)
def test_a_refusal_by_its_status(status, text, kind):
    error = error_from_response("code", status, text.encode(), {})
    assert type(error) is getattr(errors, kind)
    assert (error.expert, error.status) == ("code", status)
    assert error.body == text[:2000]
    assert "'code'" in str(error)
    assert str(status) in str(error)


def test_tgis_own_text_is_in_the_message():
    error = error_from_response("code", 422, tgi_error(LONG).encode(), {})
    assert "must be <= 4096" in str(error)
    assert error.error_type == "validation"
    wrong = (
        b'Failed to deserialize the JSON body into the target type: messages[0].content: invalid type: string "secret"'
    )
    assert "messages[0].content" in str(error_from_response("code", 422, wrong, {}))


@pytest.mark.parametrize(
    "text",
    [
        '{"detail":[{"loc":["body","messages"],"input":"secret prompt"}]}',
        '{"error":{"message":"bad input: secret prompt","type":"x"}}',
        tgi_error('Tool error: Failed to parse generated text: EOF "secret prompt"', "tool_error"),
        'Failed to deserialize the JSON body into the target type: seed: invalid type: string "secret prompt"',
        "<html>secret prompt</html>",
    ],
)
def test_what_may_quote_the_prompt_is_kept_out_of_the_message(text):
    error = error_from_response("code", 422, text.encode(), {})
    assert "secret" not in str(error)
    assert "secret" in error.body


def test_a_redirect_names_the_host_and_nothing_more():
    error = error_from_response("code", 307, b"", {"Location": "https://u:pw@other.example/x?token=secret"})
    assert type(error) is errors.ExpertNotFoundError
    assert "https://other.example" in str(error)
    assert "secret" not in str(error)
    assert "pw" not in str(error)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *[
            ({"error": {"message": text, "http_status_code": 422}}, kind)
            for text, kind in [
                ("Model is overloaded", "ExpertOverloadedError"),
                (LONG, "ContextLengthError"),
                ("Input validation error: `top_p` must be > 0.0 and < 1.0", "ExpertRequestError"),
                ("Request failed during generation: Server error: OOM", "ExpertGenerationError"),
                ("Incomplete generation stream", "ExpertGenerationError"),
                ("Tool error: Failed to parse generated text", "TruncatedReplyError"),
                ("something new", "ExpertServerError"),
            ]
        ],
        ({"error": "Model is overloaded", "error_type": "overloaded"}, "ExpertOverloadedError"),
        ({"error": "Request failed during generation: x", "error_type": "generation"}, "ExpertGenerationError"),
        ({"error": {"message": "bad", "type": "BadRequestError", "code": 400}}, "ExpertRequestError"),
        ({"error": {"message": "maximum context length is 8", "code": "400"}}, "ContextLengthError"),
        ({"error": {"code": 500, "message": "oops", "type": "server_error"}}, "ExpertServerError"),
        ({"error": "CUDA error"}, "ExpertServerError"),
        ({"error": {}}, "ExpertServerError"),
        ({"error": [1]}, "ExpertServerError"),
    ],
)
def test_an_error_in_a_stream_by_its_text(value, kind):
    error = error_in_answer("code", value)
    assert type(error) is getattr(errors, kind)
    assert (error.expert, error.status) == ("code", None)
    assert "None" not in str(error)

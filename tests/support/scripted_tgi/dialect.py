"""The wire forms of each TGI version, and of an OpenAI-like server (CONTRACT sections 5 to 14)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tests.support.scripted_tgi.checks import Limits
from tests.support.scripted_tgi.generation import EOS, NO_TOOL_TOKENS, Generation
from tests.support.scripted_tgi.replies import JSON, Raw, Refusal, dump

Json = dict[str, Any]
CREATED = 1767880000

_STATUS = {"overloaded": 429, "generation": 424, "incomplete_generation": 500}


class TGIDialect:
    """TGI of one version. Its switches are section 14 of the contract."""

    keep_stop = True

    def __init__(self, version: str, model_id: str) -> None:
        self.version = tuple(int(part) for part in version.split("."))
        self.label = version if version.count(".") == 2 else f"{version}.0"
        self.model_id = model_id
        self.has_done = self.version >= (2, 2)
        self.has_api_key = self.has_usage_option = self.has_models_route = self.version >= (2, 3)
        self.has_error_object = self.version >= (2, 4, 1)
        self.has_call_list = self.version >= (3, 2)
        self.has_second_run = self.version >= (3, 2)

    def frame(self, payload: Json) -> bytes:
        return (b"data: " if self.version >= (2, 1) else b"data:") + dump(payload) + b"\n\n"

    def served(self, requested: str | None) -> str:
        """The model that the answer names: any name but "tgi" is an adapter's, known or not, and is echoed."""
        return self.model_id if requested in (None, "tgi") else requested

    def finish(self, generation: Generation, *, chat: bool = True) -> str:
        if generation.finish == "eos":
            return "stop" if chat and self.version >= (2, 3) else "eos_token"
        return generation.finish

    def chat_reply(self, generation: Generation, body: Mapping[str, Any]) -> Json:
        finish, completion_tokens = self.finish(generation), generation.tokens
        if generation.calls:
            (call,) = generation.calls
            as_object = call.use.form == "object" if call.use.form else not self.has_call_list
            arguments = json.loads(call.use.json) if as_object else call.use.json
            function = {"description": None, "name": call.use.name, "arguments": arguments}
            calls = [{"id": "0", "type": "function", "function": function}]
            message: Json = {"role": "assistant", "tool_calls": calls}
        else:
            message = {"role": "assistant", "content": generation.text}
            if self.has_second_run and body.get("tools") and body.get("tool_choice") in (None, "auto"):
                # The text is the second run's, these are the hidden first run's (CONTRACT section 9).
                finish, completion_tokens = self.finish(Generation(0, (), "eos")), NO_TOOL_TOKENS
        logprobs = _logprobs([*generation.pieces, EOS], body) if body.get("logprobs") else None
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}
        usage = _usage(generation.prompt_tokens, completion_tokens)
        name = "chat.completion" if self.version >= (2, 1) else "text_completion"
        return {**self._head(name, body), "choices": [choice], "usage": usage}

    def chat_chunks(self, generation: Generation, body: Mapping[str, Any]) -> Iterator[Json]:
        name = "chat.completion.chunk" if self.version >= (2, 1) else "text_completion"
        head = self._head(name, body)
        for delta, finish in self._deltas(generation, body):
            logprobs = _logprobs([delta.get("content") or EOS], body) if body.get("logprobs") else None
            choice = {
                "index": 0,
                "delta": {"role": "assistant", **delta},
                "logprobs": logprobs,
                "finish_reason": finish,
            }
            yield {**head, "choices": [choice], "usage": None}
        if self.has_usage_option and (body.get("stream_options") or {}).get("include_usage"):
            yield {**head, "choices": [], "usage": _usage(generation.prompt_tokens, generation.tokens)}

    def _deltas(self, generation: Generation, body: Mapping[str, Any]) -> Iterator[tuple[Json, str | None]]:
        if generation.calls:
            yield from self._call_deltas(generation, body)
            return
        *first, last = (*generation.pieces, *([""] if generation.finish == "eos" else [])) or ("",)
        yield from (({"content": piece}, None) for piece in first)
        yield {"content": last}, self.finish(generation)

    def _call_deltas(self, generation: Generation, body: Mapping[str, Any]) -> Iterator[tuple[Json, str | None]]:
        (call,) = generation.calls
        form = call.use.form or ("pieces" if self.has_call_list else "object")
        cut = generation.finish == "length"
        if form == "object":
            yield from self._object_deltas(generation)
            return
        pieces = call.pieces if form == "pieces" else ("".join(call.pieces),)
        call_id = _next_call_id(body["messages"])
        for index, piece in enumerate(pieces):
            function = {"name": None if index else call.use.name, "arguments": piece}
            delta = {"tool_calls": [{"index": 0, "id": call_id, "type": "function", "function": function}]}
            yield delta, "length" if cut and index == len(pieces) - 1 else None

    def _object_deltas(self, generation: Generation) -> Iterator[tuple[Json, str | None]]:
        """TGI up to 3.1.1: the grammar's own text, in which the name is a key, and the end-of-text token after it."""
        (call,) = generation.calls
        inner = "".join(call.pieces).removeprefix("{")
        glue = "" if inner == "}" else ", "
        pieces = ['{"function": {"_name": ', json.dumps(call.use.name) + glue, *call.pieces[1:]]
        pieces += [] if generation.finish == "length" else ["}", EOS]
        for index, piece in enumerate(pieces):
            function = {"name": None, "arguments": piece}
            one = {"index": 0, "id": "", "type": "function", "function": function}
            yield {"tool_calls": one}, self.finish(generation) if index == len(pieces) - 1 else None

    def _head(self, name: str, body: Mapping[str, Any]) -> Json:
        model = self.served(body.get("model"))
        fingerprint = f"{self.label}-scripted"
        return {"object": name, "id": "", "created": CREATED, "model": model, "system_fingerprint": fingerprint}

    def generate_reply(self, generation: Generation, body: Mapping[str, Any]) -> Json:
        settings = body.get("parameters", {})
        text = body["inputs"] + generation.text if settings.get("return_full_text") else generation.text
        reply: Json = {"generated_text": text}
        if settings.get("details"):
            details = {"seed": settings.get("seed"), "prefill": [], "tokens": _tokens(generation)}
            reply["details"] = {**self._details(generation), **details}
            others = (settings.get("best_of") or 1) - 1
            if others:
                other = {"generated_text": text, **reply["details"]}
                reply["details"]["best_of_sequences"] = [other] * others
        return reply

    def generate_events(self, generation: Generation, body: Mapping[str, Any]) -> Iterator[Json]:
        listed = _tokens(generation)
        settings = body.get("parameters", {})
        full = body["inputs"] if settings.get("return_full_text") else ""
        for index, token in enumerate(listed, start=1):
            event: Json = {"index": index, "token": token, "generated_text": None, "details": None}
            if index == len(listed):
                event["generated_text"] = full + generation.text
                details = {"seed": settings.get("seed"), "input_length": generation.prompt_tokens}
                event["details"] = {**self._details(generation), **details}
            yield event

    def _details(self, generation: Generation) -> Json:
        return {"finish_reason": self.finish(generation, chat=False), "generated_tokens": generation.tokens}

    def refusal(self, refusal: Refusal) -> Raw:
        """An error before any stream."""
        body = {"error": refusal.message, "error_type": refusal.error_type}
        return Raw(_STATUS.get(refusal.error_type, 422), JSON, dump(body))

    def refusal_events(self, refusal: Refusal, *, chat: bool) -> list[bytes]:
        """An error inside a stream: the status is 200 already, and since 2.4.1 there is no type."""
        message, error_type = refusal.message, refusal.error_type
        if error_type == "incomplete_generation":
            message, error_type = "Incomplete generation stream", "incomplete_generation_stream"
        if chat and self.has_error_object:
            return [self.frame({"error": {"message": message, "http_status_code": 422}}), b"data: [DONE]\n\n"]
        return [self.frame({"error": message, "error_type": error_type})]

    def unauthorized(self) -> Raw:
        return Raw(401)

    def info(self, limits: Limits) -> Json:
        facts: Json = {"model_id": self.model_id, "model_sha": None, "model_pipeline_tag": "text-generation"}
        facts |= asdict(limits)
        facts |= {"validation_workers": 2, "max_client_batch_size": 4, "router": "text-generation-router"}
        facts |= {"version": self.label, "sha": None, "docker_label": None}
        if self.version < (2, 1):
            facts["max_input_length"] = facts.pop("max_input_tokens")
            facts |= {"model_dtype": "torch.float16", "model_device_type": "cuda", "waiting_served_ratio": 1.2}
            facts |= {"max_batch_total_tokens": 16000, "max_waiting_tokens": 20, "max_batch_size": None}
        return facts

    def models(self, limits: Limits) -> Json:
        model = {"id": self.model_id, "object": "model", "created": 0, "owned_by": self.model_id}
        return {"object": "list", "data": [model]}


class OpenAIDialect(TGIDialect):
    """A vLLM-like server (CONTRACT section 13)."""

    keep_stop = False

    def __init__(self, model_id: str) -> None:
        super().__init__("3.3", model_id)
        self.has_second_run = False

    def finish(self, generation: Generation, *, chat: bool = True) -> str:
        if generation.calls and generation.finish == "eos":
            return "tool_calls"
        return {"eos": "stop", "stop_sequence": "stop"}.get(generation.finish, generation.finish)

    def chat_reply(self, generation: Generation, body: Mapping[str, Any]) -> Json:
        calls = [
            {
                "id": f"chatcmpl-tool-{index}",
                "type": "function",
                "function": {"name": call.use.name, "arguments": "".join(call.pieces)},
            }
            for index, call in enumerate(generation.calls)
        ]
        message = {"role": "assistant", "content": None if calls else generation.text, "tool_calls": calls}
        logprobs = _logprobs(generation.pieces, body) if body.get("logprobs") else None
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": self.finish(generation)}
        usage = _usage(generation.prompt_tokens, generation.tokens)
        return {**self._head("chat.completion", body), "choices": [choice], "usage": usage}

    def chat_chunks(self, generation: Generation, body: Mapping[str, Any]) -> Iterator[Json]:
        head = self._head("chat.completion.chunk", body)
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        for index, call in enumerate(generation.calls):
            start = {"index": index, "id": f"chatcmpl-tool-{index}", "type": "function"}
            deltas.append({"tool_calls": [{**start, "function": {"name": call.use.name, "arguments": ""}}]})
            deltas += [{"tool_calls": [{"index": index, "function": {"arguments": p}}]} for p in call.pieces]
        deltas += [{"content": piece} for piece in generation.pieces]
        for delta in deltas:
            logprobs = _logprobs([delta["content"]], body) if body.get("logprobs") and delta.get("content") else None
            yield {**head, "choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}]}
        yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": self.finish(generation)}]}
        if (body.get("stream_options") or {}).get("include_usage"):
            yield {**head, "choices": [], "usage": _usage(generation.prompt_tokens, generation.tokens)}

    def _head(self, name: str, body: Mapping[str, Any]) -> Json:
        return {"id": "chatcmpl-1", "object": name, "created": CREATED, "model": self.model_id}

    def refusal(self, refusal: Refusal) -> Raw:
        status = {**_STATUS, "not_found": 404}.get(refusal.error_type, 400)
        error = {"message": refusal.message, "type": refusal.error_type, "param": None, "code": status}
        return Raw(status, JSON, dump({"error": error}))

    def refusal_events(self, refusal: Refusal, *, chat: bool) -> list[bytes]:
        error = {"message": refusal.message, "type": refusal.error_type, "param": None, "code": 500}
        return [self.frame({"error": error}), b"data: [DONE]\n\n"]

    def unauthorized(self) -> Raw:
        return Raw(401, JSON, b'{"error":"Unauthorized"}')

    def models(self, limits: Limits) -> Json:
        facts = {"id": self.model_id, "object": "model", "created": CREATED, "owned_by": "vllm"}
        return {"object": "list", "data": [{**facts, "max_model_len": limits.max_total_tokens}]}


def _usage(prompt_tokens: int, completion_tokens: int) -> Json:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _logprobs(pieces: Sequence[str], body: Mapping[str, Any]) -> Json:
    def entry(piece: str) -> Json:
        top = [{"token": piece, "logprob": -0.5}] * (body.get("top_logprobs") or 0)
        return {"token": piece, "logprob": -0.5, "top_logprobs": top}

    return {"content": [entry(piece) for piece in pieces]}


def _tokens(generation: Generation) -> list[Json]:
    listed = [{"id": 100 + i, "text": p, "logprob": -0.5, "special": False} for i, p in enumerate(generation.pieces)]
    if generation.finish == "eos":
        listed.append({"id": 2, "text": EOS, "logprob": -0.5, "special": True})
    return listed


def _next_call_id(messages: Sequence[Mapping[str, Any]]) -> str:
    """The id of a streamed call: "0", one more than the largest in the history, or a UUID where one is no integer."""
    ids = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    if not all(call_id.isdigit() for call_id in ids):
        return str(uuid.uuid5(uuid.NAMESPACE_OID, "".join(ids)))
    return str(max(map(int, ids), default=-1) + 1)

"""The `text-generation` package as an expert's client, its faults contained behind TGIClient's interface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError  # of a line without end

from torouter.chat import ChatChunk, ChatReply, ChatRequest, Usage
from torouter.endpoints.client import CallClock, TGIClient, Timeouts
from torouter.endpoints.error_mapping import error_from_response, error_in_answer
from torouter.endpoints.generation import Generation, GenerationStream, TemplatedChat, generation, templated_chat
from torouter.endpoints.request import asks_for_tools, chat_body, generate_body, stop_texts
from torouter.errors import (
    ExpertError,
    ExpertProtocolError,
    ExpertRequestError,
    MissingExtraError,
    TruncatedReplyError,
)
from torouter.experts import Expert

T = TypeVar("T")

_PARAMETERS = frozenset(
    (
        *("max_new_tokens", "temperature", "top_p", "top_k", "typical_p", "seed", "stop", "truncate", "do_sample"),
        *("repetition_penalty", "frequency_penalty", "watermark", "grammar", "top_n_tokens", "return_full_text"),
    )
)
_WHOLE_ONLY = frozenset(("best_of", "decoder_input_details"))
# What the package's errors are made from. UnknownError may come from any other status.
_STATUS = {
    "ValidationError": 422,
    "GenerationError": 424,
    "IncompleteGenerationError": 500,
    "OverloadedError": 429,
    "BadRequestError": 400,
    "ShardNotReadyError": 403,  # or a 424 without TGI's error type, which TGI never sends
    "ShardTimeoutError": 504,
    "NotFoundError": 404,
    "RateLimitExceededError": 429,
}


class TextGenerationClient(TGIClient):
    """Asks one TGI server by the `text-generation` package's AsyncClient; arguments and errors are TGIClient's.

    Only prompts are sent by it, as its chat streams break on TGI 3. The server's own template makes a chat a prompt
    (`/chat_tokenize`), which goes to the routes for prompts: whole to POST `/`, whose form of `/generate` is the only
    one that the package reads, streamed to `/generate_stream`. Models whose tokenizer begins each text with a special
    token see it twice, as the template and those routes both add it.

    What it can't do as TGIClient does: tools, images, adapters, logprobs of chats; it opens a connection for each
    request, puts no cap on the size of an answer, and follows redirects, without the token if to another host.

    Raises:
        ConfigurationError: The expert has no such url.
        MissingExtraError: The package is not installed.
    """

    def __init__(self, expert: Expert, *, url: str | None = None, timeouts: Timeouts | None = None) -> None:
        super().__init__(expert, url=url, timeouts=timeouts)
        try:
            import text_generation.types
        except ImportError:
            msg = f"expert {expert.name!r} asks for client 'text-generation': pip install 'torouter[text-generation]'"
            raise MissingExtraError(msg) from None
        self._package = text_generation

    async def chat(self, request: ChatRequest, *, deadline: float | None = None) -> ChatReply:
        clock = CallClock(self.timeouts, deadline)
        prompt, parameters = await self._prompt(request, deadline)
        told = await self.generate(prompt.text, parameters=parameters, deadline=clock.left())
        return ChatReply(told.text, (), told.finish_reason or "stop", _usage(prompt, told))

    async def chat_stream(
        self, request: ChatRequest, *, deadline: float | None = None
    ) -> AsyncGenerator[ChatChunk, None]:
        clock = CallClock(self.timeouts, deadline)
        prompt, parameters = await self._prompt(request, deadline)
        steps = self.generate_stream(prompt.text, parameters=parameters, deadline=clock.left())
        async with aclosing(steps):
            async for step in steps:
                yield ChatChunk(step.text, (), step.finish_reason, _usage(prompt, step))

    async def generate(
        self, prompt: str, *, parameters: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> Generation:
        given = parameters or {}
        arguments = self._arguments(prompt, given, stream=False)
        asked = self._asker("/").generate(prompt, **arguments)
        answer = await self._contained(asked, CallClock(self.timeouts, deadline))
        return generation(self.expert.name, stop_texts(self.expert, given), _json(answer))

    async def generate_stream(
        self, prompt: str, *, parameters: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> AsyncGenerator[Generation, None]:
        given = parameters or {}
        arguments = self._arguments(prompt, given, stream=True)
        steps = GenerationStream(self.expert.name, stop_texts(self.expert, given))
        clock = CallClock(self.timeouts, deadline, stream=True)
        try:
            async with aclosing(self._asker("/generate_stream").generate_stream(prompt, **arguments)) as events:
                while not steps.ended:
                    event = await self._contained(anext(events, None), clock)
                    if event is None:
                        break
                    clock.started = True
                    step = steps.feed(_json(event))
                    if step is not None:
                        yield step
            yield steps.close()
        except ExpertError as error:
            error.partial_text = steps.partial_text
            raise

    async def _prompt(self, request: ChatRequest, deadline: float | None) -> tuple[TemplatedChat, dict[str, Any]]:
        """The chat as a prompt, with the parameters that mean the same on the route for prompts."""
        if asks_for_tools(request):
            what = "can't be asked with tools: the text-generation package sends prompts only; use client native"
            raise self._failure(ExpertRequestError, what)
        body = chat_body(self.expert, request, stream=False)
        # A chat samples unless told otherwise, a prompt does not.
        parameters = {**request.parameters, "do_sample": body.get("temperature") != 0}
        if (form := body.get("response_format")) is not None:
            parameters["grammar"] = form
        data = await self._ask("POST", "/chat_tokenize", body, deadline)
        return templated_chat(self.expert.name, data), parameters

    def _asker(self, path: str) -> Any:
        asker = self._package.AsyncClient(self._root + path, headers=self._headers())
        # Its own limit is one for everything, streams included; ours are kept around each step.
        asker.timeout = aiohttp.ClientTimeout(total=None, connect=self.timeouts.connect)
        return asker

    def _arguments(self, prompt: str, parameters: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
        """Keywords for the package's methods.

        Raises:
            ExpertRequestError: The package does not know a parameter, or refuses its value.
        """
        found: dict[str, Any] = generate_body(self.expert, prompt, parameters)["parameters"]
        found.pop("details", None)  # it always asks for them
        if not found.get("frequency_penalty"):
            found.pop("frequency_penalty", None)  # it refuses 0
        unknown = found.keys() - (_PARAMETERS if stream else _PARAMETERS | _WHOLE_ONLY)
        if unknown:
            what = f"can't be asked with {', '.join(sorted(unknown))}: the text-generation package can't send it"
            raise self._failure(ExpertRequestError, f"{what}{' in a stream' if unknown <= _WHOLE_ONLY else ''}")
        if "grammar" in found:
            found["grammar"] = _grammar(found["grammar"])
        types = self._package.types
        try:
            checked = types.Request(inputs=prompt, stream=stream, parameters=types.Parameters(**found))
        except self._package.errors.ValidationError as error:
            reason = str(error)
        except ValueError as error:  # pydantic's, whose text quotes the values
            fields = {str(detail["loc"][0]) for detail in error.errors()}  # type: ignore[attr-defined]
            reason = f"of the wrong type: {', '.join(sorted(fields))}"
        else:
            found["stop_sequences"] = found.pop("stop", None)
            if "grammar" in found:
                found["grammar"] = checked.parameters.grammar
            return found
        raise self._failure(ExpertRequestError, f"can't be asked so, says the text-generation package: {reason}")

    async def _contained(self, asked: Awaitable[T], clock: CallClock) -> T:
        """What the package gives within the call's limits; whatever it raises becomes one of our errors."""
        errors = self._package.errors
        until, limit = clock.limit()
        failure: ExpertError
        try:
            async with asyncio.timeout_at(until):
                return await asked
        except aiohttp.ContentTypeError as error:  # an empty or plain body, which it takes for JSON
            failure = error_from_response(self.expert.name, error.status, b"", error.headers or {})
        except aiohttp.ClientPayloadError:
            failure = self._failure(TruncatedReplyError, "broke off its answer")
        except (TimeoutError, aiohttp.ClientError) as error:
            failure = self._unreached(error, limit)
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError, HttpProcessingError) as error:
            what = f"answers something that the text-generation package can't read ({type(error).__name__})"
            failure = self._failure(ExpertProtocolError, what)
        except Exception as error:
            if type(error).__module__ != errors.__name__:
                raise
            failure = self._told(error)
        # Raised out here, as aiohttp's errors hold the request's headers and with them the token.
        raise failure

    def _told(self, error: Exception) -> ExpertError:
        """An error that the package made of a server's refusal."""
        told = error.args[0] if error.args else ""
        return error_in_answer(self.expert.name, {"error": told, "code": _STATUS.get(type(error).__name__)})


def _json(value: Any) -> bytes:
    text: str = value.model_dump_json()
    return text.encode()


def _grammar(form: Any) -> Any:
    """A grammar in the package's two forms; anything else is left for it to refuse."""
    if isinstance(form, Mapping) and form.get("type") in ("json_object", "json_schema"):
        value = form.get("value")
        inner = value.get("schema") if form["type"] == "json_schema" and isinstance(value, Mapping) else value
        return {"type": "json", "value": inner}
    return form


def _usage(prompt: TemplatedChat, told: Generation) -> Usage | None:
    return None if told.generated_tokens is None else Usage(len(prompt.ids), told.generated_tokens)

"""The `text-generation` package as an expert's client, with TGIClient's interface and errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError  # of a line without end

from torouter.chat import ChatChunk, ChatReply, ChatRequest, Usage
from torouter.endpoints.client import TGIClient
from torouter.endpoints.error_mapping import error_from_response, error_in_answer
from torouter.endpoints.generation import (
    Generation,
    GenerationStream,
    TemplatedChat,
    parse_generation,
    parse_templated_chat,
)
from torouter.endpoints.request import asks_for_tools, chat_body, generate_body, stop_sequences_of
from torouter.endpoints.timeouts import CallClock, Timeouts
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
# The status from which the package makes each of its errors. UnknownError may come from any other status.
_STATUS_OF_ERROR = {
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
    """Calls one TGI server through the `text-generation` package's AsyncClient; arguments and errors are TGIClient's.

    The package sends prompts only, as its chat streams break on TGI 3. The server's chat template turns a chat into a
    prompt (`/chat_tokenize`), which goes to the routes for prompts: whole to POST `/`, whose form of `/generate` is the
    only one that the package reads, streamed to `/generate_stream`. Models whose tokenizer begins each text with a
    special token see it twice, as the template and those routes both add it.

    Unlike TGIClient it has no tools, images, adapters or logprobs of chats; it opens a connection for each request,
    does not limit the size of an answer, and follows redirects, without the token if to another host.

    Raises:
        ConfigurationError: `url` is not one of the expert's urls.
        MissingExtraError: The package is not installed.
    """

    def __init__(self, expert: Expert, *, url: str | None = None, timeouts: Timeouts | None = None) -> None:
        super().__init__(expert, url=url, timeouts=timeouts)
        try:
            import text_generation.types
        except ImportError:
            msg = f"expert {expert.name!r} needs client 'text-generation': pip install 'torouter[text-generation]'"
            raise MissingExtraError(msg) from None
        self._package = text_generation

    async def chat(self, request: ChatRequest, *, deadline: float | None = None) -> ChatReply:
        clock = CallClock(self.timeouts, deadline)
        prompt, parameters = await self._prompt(request, deadline)
        answer = await self.generate(prompt.text, parameters=parameters, deadline=clock.seconds_left())
        return ChatReply(answer.text, (), answer.finish_reason or "stop", _usage(prompt, answer))

    async def chat_stream(
        self, request: ChatRequest, *, deadline: float | None = None
    ) -> AsyncGenerator[ChatChunk, None]:
        clock = CallClock(self.timeouts, deadline)
        prompt, parameters = await self._prompt(request, deadline)
        steps = self.generate_stream(prompt.text, parameters=parameters, deadline=clock.seconds_left())
        async with aclosing(steps):
            async for step in steps:
                yield ChatChunk(step.text, (), step.finish_reason, _usage(prompt, step))

    async def generate(
        self, prompt: str, *, parameters: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> Generation:
        parameters = parameters or {}
        arguments = self._arguments(prompt, parameters, stream=False)
        call = self._package_client("/").generate(prompt, **arguments)
        answer = await self._with_typed_errors(call, CallClock(self.timeouts, deadline))
        return parse_generation(self.expert.name, stop_sequences_of(self.expert, parameters), _json(answer))

    async def generate_stream(
        self, prompt: str, *, parameters: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> AsyncGenerator[Generation, None]:
        parameters = parameters or {}
        arguments = self._arguments(prompt, parameters, stream=True)
        parser = GenerationStream(self.expert.name, stop_sequences_of(self.expert, parameters))
        clock = CallClock(self.timeouts, deadline, stream=True)
        package_client = self._package_client("/generate_stream")
        try:
            async with aclosing(package_client.generate_stream(prompt, **arguments)) as events:
                while not parser.ended:
                    event = await self._with_typed_errors(anext(events, None), clock)
                    if event is None:
                        break
                    clock.started = True
                    step = parser.feed(_json(event))
                    if step is not None:
                        yield step
            yield parser.close()
        except ExpertError as error:
            error.partial_text = parser.partial_text
            raise

    async def _prompt(self, request: ChatRequest, deadline: float | None) -> tuple[TemplatedChat, dict[str, Any]]:
        """The chat as a prompt, with the parameters that mean the same on the routes for prompts."""
        if asks_for_tools(request):
            reason = "can't take tools: the text-generation package sends prompts only; use client native"
            raise self._failure(ExpertRequestError, reason)
        body = chat_body(self.expert, request, stream=False)
        # The chat route samples by default, the routes for prompts do not.
        parameters = {**request.parameters, "do_sample": body.get("temperature") != 0}
        if (grammar := body.get("response_format")) is not None:
            parameters["grammar"] = grammar
        data = await self._request("POST", "/chat_tokenize", body, deadline)
        return parse_templated_chat(self.expert.name, data), parameters

    def _package_client(self, path: str) -> Any:
        package_client = self._package.AsyncClient(self._root + path, headers=self._headers())
        # The package has one limit for everything, streams included; ours are kept around each step.
        package_client.timeout = aiohttp.ClientTimeout(total=None, connect=self.timeouts.connect)
        return package_client

    def _arguments(self, prompt: str, parameters: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
        """Keywords for the package's methods.

        Raises:
            ExpertRequestError: The package does not know a parameter, or refuses its value.
        """
        arguments: dict[str, Any] = generate_body(self.expert, prompt, parameters)["parameters"]
        arguments.pop("details", None)  # the package always requests them
        if not arguments.get("frequency_penalty"):
            arguments.pop("frequency_penalty", None)  # the package refuses 0
        unknown = arguments.keys() - (_PARAMETERS if stream else _PARAMETERS | _WHOLE_ONLY)
        if unknown:
            reason = f"can't take {', '.join(sorted(unknown))}: the text-generation package can't send it"
            raise self._failure(ExpertRequestError, f"{reason}{' in a stream' if unknown <= _WHOLE_ONLY else ''}")
        if "grammar" in arguments:
            arguments["grammar"] = _package_grammar(arguments["grammar"])
        types = self._package.types
        try:
            checked = types.Request(inputs=prompt, stream=stream, parameters=types.Parameters(**arguments))
        except self._package.errors.ValidationError as error:
            reason = str(error)
        except ValueError as error:  # pydantic's, whose message quotes the values
            fields = {str(detail["loc"][0]) for detail in error.errors()}  # type: ignore[attr-defined]
            reason = f"of the wrong type: {', '.join(sorted(fields))}"
        else:
            arguments["stop_sequences"] = arguments.pop("stop", None)
            if "grammar" in arguments:
                arguments["grammar"] = checked.parameters.grammar
            return arguments
        raise self._failure(ExpertRequestError, f"can't be called: the text-generation package refuses it: {reason}")

    async def _with_typed_errors(self, call: Awaitable[T], clock: CallClock) -> T:
        """What the package returns within the call's limits; whatever it raises becomes one of our errors."""
        errors = self._package.errors
        until, timeout_message = clock.limit()
        failure: ExpertError
        try:
            async with asyncio.timeout_at(until):
                return await call
        except aiohttp.ContentTypeError as error:  # an empty or plain body, which the package reads as JSON
            failure = error_from_response(self.expert.name, error.status, b"", error.headers or {})
        except aiohttp.ClientPayloadError:
            failure = self._failure(TruncatedReplyError, "broke off its answer")
        except (TimeoutError, aiohttp.ClientError) as error:
            failure = self._connection_error(error, timeout_message)
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError, HttpProcessingError) as error:
            reason = f"answers something that the text-generation package can't read ({type(error).__name__})"
            failure = self._failure(ExpertProtocolError, reason)
        except Exception as error:
            if type(error).__module__ != errors.__name__:
                raise
            failure = self._server_error(error)
        # Raised outside the except block: aiohttp's errors hold the request's headers and with them the token.
        raise failure

    def _server_error(self, error: Exception) -> ExpertError:
        """The error for a server's refusal that the package raises as one of its own."""
        message = error.args[0] if error.args else ""
        return error_in_answer(self.expert.name, {"error": message, "code": _STATUS_OF_ERROR.get(type(error).__name__)})


def _json(value: Any) -> bytes:
    text: str = value.model_dump_json()
    return text.encode()


def _package_grammar(grammar: Any) -> Any:
    """A grammar in one of the package's two forms; anything else is left for it to refuse."""
    if isinstance(grammar, Mapping) and grammar.get("type") in ("json_object", "json_schema"):
        value = grammar.get("value")
        schema = value.get("schema") if grammar["type"] == "json_schema" and isinstance(value, Mapping) else value
        return {"type": "json", "value": schema}
    return grammar


def _usage(prompt: TemplatedChat, answer: Generation) -> Usage | None:
    return None if answer.generated_tokens is None else Usage(len(prompt.ids), answer.generated_tokens)

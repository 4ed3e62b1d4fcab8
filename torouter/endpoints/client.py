"""Calls one expert's server in its dialect, within time limits, and turns every failure into a typed error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol, Self, TypeVar

import aiohttp

from torouter.chat import ChatChunk, ChatReply, ChatRequest
from torouter.endpoints.error_mapping import error_from_response
from torouter.endpoints.generation import (
    Generation,
    GenerationStream,
    TemplatedChat,
    parse_generation,
    parse_templated_chat,
)
from torouter.endpoints.http_sessions import session
from torouter.endpoints.json_fields import parse_object
from torouter.endpoints.reply import ChatStream, parse_chat_reply
from torouter.endpoints.request import chat_body, encode_body, generate_body, stop_sequences_of
from torouter.endpoints.server_info import ServerInfo, server_info_from_models, server_info_from_tgi
from torouter.endpoints.sse import SSEReader
from torouter.endpoints.timeouts import CallClock, Timeouts
from torouter.errors import (
    ConfigurationError,
    ExpertConnectionError,
    ExpertError,
    ExpertNotFoundError,
    ExpertProtocolError,
    ExpertTimeoutError,
    ExpertUnavailableError,
    TruncatedReplyError,
)
from torouter.experts import Expert

MAX_BODY_BYTES = 16 * 2**20
_ERROR_BODY_SECONDS = 5.0
_DRAIN_SECONDS = 0.1
_HEALTH_SECONDS = 10.0

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class TGIClient:
    """Calls one expert at one of its urls.

    It holds no connection of its own (see `http_sessions`), can be used from several event loops, and is cheap to make.
    Cancelling a call, or closing its stream, closes the call's connection, at which every server of this kind stops
    generating. Redirects are not followed.

    Every call raises subclasses of `ExpertError`, as the tree in `torouter.errors` says, and takes a `deadline` in
    seconds from now, which can only shorten `timeouts.total`.

    Args:
        expert: The expert.
        url: Which of its urls to call, by default the first.
        timeouts: Limits of each call.

    Raises:
        ConfigurationError: `url` is not one of the expert's urls.
    """

    def __init__(self, expert: Expert, *, url: str | None = None, timeouts: Timeouts | None = None) -> None:
        url = expert.url if url is None else url.rstrip("/")
        if url not in expert.urls:  # the token must not go anywhere else
            msg = f"expert {expert.name!r}: url={url!r} can't be used: give one of its urls {list(expert.urls)}"
            raise ConfigurationError(msg)
        self.expert = expert
        self.url = url
        self.timeouts = timeouts or Timeouts()
        self._root = url.removesuffix("/v1")
        self._connect = aiohttp.ClientTimeout(total=None, connect=self.timeouts.connect)

    def __repr__(self) -> str:
        return f"TGIClient({self.expert.name!r}, url={self.url!r})"

    async def chat(self, request: ChatRequest, *, deadline: float | None = None) -> ChatReply:
        """The whole answer to a chat."""
        body = chat_body(self.expert, request, stream=False)
        data = await self._request("POST", "/v1/chat/completions", body, deadline)
        return parse_chat_reply(self.expert, request, data)

    def chat_stream(self, request: ChatRequest, *, deadline: float | None = None) -> AsyncGenerator[ChatChunk, None]:
        """The answer to a chat as it comes; see `torouter.endpoints.reply.ChatStream` for what the chunks hold.

        An error after the first chunk has the text so far in `partial_text`.
        """
        body = chat_body(self.expert, request, stream=True)
        return self._stream("/v1/chat/completions", body, ChatStream(self.expert, request), deadline)

    async def generate(
        self, prompt: str, *, parameters: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> Generation:
        """TGI's continuation of a raw prompt (`/generate`), without a chat template.

        Args:
            prompt: The text to continue.
            parameters: In TGI's names.
            deadline: Seconds from now.
        """
        body = generate_body(self.expert, prompt, parameters or {})
        data = await self._request("POST", "/generate", body, deadline)
        return parse_generation(self.expert.name, stop_sequences_of(self.expert, parameters or {}), data)

    def generate_stream(
        self, prompt: str, *, parameters: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> AsyncGenerator[Generation, None]:
        """The same step by step (`/generate_stream`); only the last step has the finish reason."""
        body = generate_body(self.expert, prompt, parameters or {})
        parser = GenerationStream(self.expert.name, stop_sequences_of(self.expert, parameters or {}))
        return self._stream("/generate_stream", body, parser, deadline)

    async def chat_tokenize(self, request: ChatRequest, *, deadline: float | None = None) -> TemplatedChat:
        """The prompt into which TGI's chat template turns a chat (`/chat_tokenize`)."""
        body = chat_body(self.expert, request, stream=False)
        return parse_templated_chat(self.expert.name, await self._request("POST", "/chat_tokenize", body, deadline))

    async def info(self, *, deadline: float | None = None) -> ServerInfo:
        """What the server reports about its model and limits: `/info` of TGI, `/v1/models` of other servers."""
        if self.expert.api == "tgi":
            try:
                return server_info_from_tgi(self.expert.name, await self._request("GET", "/info", None, deadline))
            except ExpertNotFoundError:
                pass  # another server, or a gateway in front of TGI
        data = await self._request("GET", "/v1/models", None, deadline)
        return server_info_from_models(self.expert.name, self.expert.model, data)

    async def health(self, *, deadline: float = _HEALTH_SECONDS) -> bool:
        """Whether the server reports that it can answer; after an error TGI generates a token first to find out."""
        try:
            await self._request("GET", "/health", None, deadline)
        except ExpertError:
            return False
        return True

    async def aclose(self) -> None:
        """Does nothing; it is for code that closes its clients. `close_sessions` closes the connections."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None, deadline: float | None) -> bytes:
        clock = CallClock(self.timeouts, deadline)
        response = await self._open(method, path, body, clock)
        try:
            return await self._read_all(response, clock)
        finally:
            response.close()  # after the body's end this returns the connection to the pool

    async def _stream(
        self, path: str, body: Mapping[str, Any], parser: _EventParser[T], deadline: float | None
    ) -> AsyncGenerator[T, None]:
        clock = CallClock(self.timeouts, deadline, stream=True)
        response = await self._open("POST", path, body, clock)
        try:
            if response.content_type != "text/event-stream":
                raise await self._not_a_stream(response, clock)
            reader = SSEReader(self.expert.name)
            while not parser.ended:
                piece = await self._read(response, clock)
                for data in reader.feed(piece) if piece else reader.close():
                    clock.started = True
                    item = parser.feed(data)
                    if item is not None:
                        yield item
                    if parser.ended:
                        break
                if not piece:
                    break
            last = parser.close()
            if parser.done:
                await _drain(response)
            response.close()
            yield last
        except ExpertError as error:
            error.partial_text = parser.partial_text
            raise
        finally:
            response.close()

    async def _open(
        self, method: str, path: str, body: Mapping[str, Any] | None, clock: CallClock
    ) -> aiohttp.ClientResponse:
        """Send the request and wait for a status of 200."""
        data = None if body is None else encode_body(self.expert, body)
        until, timeout_message = clock.limit()
        failure: ExpertError
        try:
            async with asyncio.timeout_at(until):
                response = await (await session()).request(
                    method,
                    self._root + path,
                    data=data,
                    headers=self._headers(),  # not in a local variable, which traceback viewers would show
                    timeout=self._connect,
                    allow_redirects=False,
                )
        except (TimeoutError, aiohttp.ClientError) as error:
            failure = self._connection_error(error, timeout_message)
        else:
            if response.status == 200:
                return response
            failure = await self._response_error(response, clock)
        # Raised outside the except block: aiohttp's errors hold the request's headers and with them the token.
        raise failure

    async def _response_error(self, response: aiohttp.ClientResponse, clock: CallClock) -> ExpertError:
        clock.shorten(_ERROR_BODY_SECONDS)
        try:
            body = await self._read_all(response, clock)
        except ExpertUnavailableError:
            body = b""  # the status is enough
        finally:
            response.close()
        return error_from_response(self.expert.name, response.status, body, response.headers)

    async def _not_a_stream(self, response: aiohttp.ClientResponse, clock: CallClock) -> ExpertError:
        """The error of an answer with status 200 that is not a stream: an error as JSON, or a proxy's page."""
        try:
            parse_object(self.expert.name, await self._read_all(response, clock))
        except ExpertError as error:
            return error
        return self._failure(ExpertProtocolError, f"answers with {response.content_type} instead of a stream")

    async def _read_all(self, response: aiohttp.ClientResponse, clock: CallClock) -> bytes:
        pieces = []
        size = 0
        while piece := await self._read(response, clock):
            size += len(piece)  # after decompression
            if size > MAX_BODY_BYTES:
                raise self._failure(ExpertProtocolError, f"answers with more than {MAX_BODY_BYTES} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def _read(self, response: aiohttp.ClientResponse, clock: CallClock) -> bytes:
        """The bytes that have come, b"" at the body's end.

        The time limit covers this one read and never a yield, since a generator's steps may run in different tasks.
        """
        until, timeout_message = clock.limit()
        failure: ExpertError
        try:
            async with asyncio.timeout_at(until):
                return await response.content.readany()
        except TimeoutError:
            failure = self._failure(ExpertTimeoutError, timeout_message)
        except aiohttp.ClientError as error:
            failure = self._failure(TruncatedReplyError, f"broke off its answer ({str(error) or type(error).__name__})")
        raise failure

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        token = self.expert.token()
        if token is not None:
            if not token.isascii() or not token.isprintable():
                del token  # traceback viewers would show it
                msg = (
                    f"expert {self.expert.name!r}: its token can't be sent in a header: "
                    "remove line ends and characters beyond ASCII from it"
                )
                raise ConfigurationError(msg)
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _connection_error(self, error: Exception, timeout_message: str) -> ExpertError:
        """What an error before the answer means; `timeout_message` is for the call's own limit."""
        if isinstance(error, aiohttp.ServerTimeoutError):
            return self._failure(ExpertTimeoutError, f"accepts no connection within {self.timeouts.connect:g} s")
        if isinstance(error, TimeoutError):
            return self._failure(ExpertTimeoutError, timeout_message)
        if isinstance(error, aiohttp.ClientResponseError):
            return self._failure(ExpertProtocolError, f"does not answer in HTTP ({error.message})")
        return self._failure(ExpertConnectionError, f"can't be reached ({str(error) or type(error).__name__})")

    def _failure(self, kind: type[ExpertError], reason: str) -> ExpertError:
        return kind(f"expert {self.expert.name!r} at {self.url} {reason}", expert=self.expert.name)


class _EventParser(Protocol[T_co]):
    """Turns the events of one stream into what the caller gets: `ChatStream` and `GenerationStream`."""

    done: bool
    ended: bool

    @property
    def partial_text(self) -> str: ...
    def feed(self, data: bytes) -> T_co | None: ...
    def close(self) -> T_co: ...


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the little that follows the last event, so that the connection can be used again."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await response.content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError):
        pass  # the caller closes the response

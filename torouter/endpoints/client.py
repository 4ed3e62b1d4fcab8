"""One expert's server: asks it in its dialect, within time limits, and turns every failure into a typed error."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self, TypeVar

import aiohttp

from torouter.chat import ChatChunk, ChatReply, ChatRequest
from torouter.endpoints.error_mapping import error_from_response
from torouter.endpoints.generation import (
    Generation,
    GenerationStream,
    ServerInfo,
    TemplatedChat,
    generation,
    server_info,
    server_info_of_models,
    templated_chat,
)
from torouter.endpoints.http_sessions import session
from torouter.endpoints.reply import ChatStream, chat_reply, parsed
from torouter.endpoints.request import chat_body, encoded, generate_body, stop_texts
from torouter.endpoints.sse import SSEReader
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits of one call, in seconds.

    Raises:
        ConfigurationError: A limit is no positive number.
    """

    connect: float = 5.0
    """Until a connection stands, name resolution and TLS included."""
    first_byte: float = 60.0
    """From the start of a stream's call to its first event. Keep-alive comments do not count: TGI sends them to queued
    requests too. It has no meaning for a call without a stream, of which nothing comes before all is done."""
    idle: float = 60.0
    """Silence between two reads of a stream after that, comments not counting as silence: TGI sends one every 15 s."""
    total: float = 600.0
    """The whole call, for a stream the time that its consumer takes included."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                msg = f"Timeouts: {limit.name}={value!r} can't be used: give seconds above zero"
                raise ConfigurationError(msg)


class TGIClient:
    """Asks one expert at one of its urls.

    It holds no connection of its own (see `http_sessions`), may be used from several event loops, and is cheap to make.
    Cancelling a call, or closing its stream, closes the call's connection: to every server of this kind that means to
    stop generating.

    Every call raises subclasses of `ExpertError`, as the tree in `torouter.errors` says. Redirects are not followed.

    Args:
        expert: The expert.
        url: Which of its urls to ask, by default the first.
        timeouts: Limits of each call. A call's own `deadline` can only shorten them.

    Raises:
        ConfigurationError: The expert has no such url.
    """

    def __init__(self, expert: Expert, *, url: str | None = None, timeouts: Timeouts | None = None) -> None:
        url = expert.url if url is None else url.rstrip("/")
        if url not in expert.urls:  # nor may its token go anywhere else
            msg = f"expert {expert.name!r}: url={url!r} can't be asked: it is none of its urls {list(expert.urls)}"
            raise ConfigurationError(msg)
        self.expert = expert
        self.url = url
        self.timeouts = timeouts or Timeouts()
        self._root = url.removesuffix("/v1")
        self._connect = aiohttp.ClientTimeout(total=None, connect=self.timeouts.connect)

    def __repr__(self) -> str:
        return f"TGIClient({self.expert.name!r}, url={self.url!r})"

    async def chat(self, request: ChatRequest, *, deadline: float | None = None) -> ChatReply:
        """Ask and wait for the whole answer. `deadline` is in seconds from now."""
        body = chat_body(self.expert, request, stream=False)
        data = await self._ask("POST", "/v1/chat/completions", body, deadline)
        return chat_reply(self.expert, request, data)

    def chat_stream(self, request: ChatRequest, *, deadline: float | None = None) -> AsyncGenerator[ChatChunk, None]:
        """Ask and yield the answer as it comes; see `torouter.endpoints.reply.ChatStream` for what the chunks hold.

        An error after the first chunk has what was given out in `partial_text`.
        """
        body = chat_body(self.expert, request, stream=True)
        return self._stream("/v1/chat/completions", body, ChatStream(self.expert, request), deadline)

    async def generate(
        self, prompt: str, *, parameters: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> Generation:
        """Let TGI continue a raw prompt (`/generate`), without any chat template; `parameters` in TGI's names."""
        body = generate_body(self.expert, prompt, parameters or {})
        data = await self._ask("POST", "/generate", body, deadline)
        return generation(self.expert.name, stop_texts(self.expert, parameters or {}), data)

    def generate_stream(
        self, prompt: str, *, parameters: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> AsyncGenerator[Generation, None]:
        """The same step by step (`/generate_stream`); the last step, and no other, has the finish reason."""
        body = generate_body(self.expert, prompt, parameters or {})
        steps = GenerationStream(self.expert.name, stop_texts(self.expert, parameters or {}))
        return self._stream("/generate_stream", body, steps, deadline)

    async def chat_tokenize(self, request: ChatRequest, *, deadline: float | None = None) -> TemplatedChat:
        """The prompt that TGI makes of a chat (`/chat_tokenize`)."""
        body = chat_body(self.expert, request, stream=False)
        return templated_chat(self.expert.name, await self._ask("POST", "/chat_tokenize", body, deadline))

    async def info(self, *, deadline: float | None = None) -> ServerInfo:
        """What the server tells of its model and limits: `/info` of TGI, `/v1/models` of others."""
        if self.expert.api == "tgi":
            try:
                return server_info(self.expert.name, await self._ask("GET", "/info", None, deadline))
            except ExpertNotFoundError:
                pass  # another server, or a gateway before TGI
        data = await self._ask("GET", "/v1/models", None, deadline)
        return server_info_of_models(self.expert.name, self.expert.model, data)

    async def health(self, *, deadline: float = _HEALTH_SECONDS) -> bool:
        """Whether the server says that it can answer. After an error TGI generates a token to know, which may take."""
        try:
            await self._ask("GET", "/health", None, deadline)
        except ExpertError:
            return False
        return True

    async def aclose(self) -> None:
        """Nothing is held: this is for code that closes its clients. `close_sessions` closes connections."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, deadline: float | None) -> bytes:
        clock = CallClock(self.timeouts, deadline)
        response = await self._open(method, path, body, clock)
        try:
            return await self._whole(response, clock)
        finally:
            response.close()  # after the body's end this leaves the connection to the pool

    async def _stream(
        self, path: str, body: Mapping[str, Any], steps: _Steps[T], deadline: float | None
    ) -> AsyncGenerator[T, None]:
        clock = CallClock(self.timeouts, deadline, stream=True)
        response = await self._open("POST", path, body, clock)
        try:
            if response.content_type != "text/event-stream":
                raise await self._no_stream(response, clock)
            reader = SSEReader(self.expert.name)
            while not steps.ended:
                piece = await self._read(response, clock)
                for data in reader.feed(piece) if piece else reader.close():
                    clock.started = True
                    step = steps.feed(data)
                    if step is not None:
                        yield step
                    if steps.ended:
                        break
                if not piece:
                    break
            last = steps.close()
            if steps.done:
                await _drain(response)
            response.close()
            yield last
        except ExpertError as error:
            error.partial_text = steps.partial_text
            raise
        finally:
            response.close()

    async def _open(
        self, method: str, path: str, body: Mapping[str, Any] | None, clock: CallClock
    ) -> aiohttp.ClientResponse:
        """Send the request and wait for a status of 200."""
        data = None if body is None else encoded(self.expert, body)
        until, limit = clock.limit()
        failure: ExpertError
        try:
            async with asyncio.timeout_at(until):
                response = await (await session()).request(
                    method,
                    self._root + path,
                    data=data,
                    headers=self._headers(),  # no local variable, which tools that show tracebacks would show too
                    timeout=self._connect,
                    allow_redirects=False,
                )
        except (TimeoutError, aiohttp.ClientError) as error:
            failure = self._unreached(error, limit)
        else:
            if response.status == 200:
                return response
            failure = await self._refusal(response, clock)
        # Raised out here, as aiohttp's errors hold the request's headers and with them the token.
        raise failure

    async def _refusal(self, response: aiohttp.ClientResponse, clock: CallClock) -> ExpertError:
        clock.shorten(_ERROR_BODY_SECONDS)
        try:
            body = await self._whole(response, clock)
        except ExpertUnavailableError:
            body = b""  # the status says enough
        finally:
            response.close()
        return error_from_response(self.expert.name, response.status, body, response.headers)

    async def _no_stream(self, response: aiohttp.ClientResponse, clock: CallClock) -> ExpertError:
        """The error of an answer with status 200 that is no stream: an error as JSON, or a proxy's page."""
        try:
            parsed(self.expert.name, await self._whole(response, clock))
        except ExpertError as error:
            return error
        return self._failure(ExpertProtocolError, f"answers with {response.content_type}, not with a stream")

    async def _whole(self, response: aiohttp.ClientResponse, clock: CallClock) -> bytes:
        pieces = []
        size = 0
        while piece := await self._read(response, clock):
            size += len(piece)  # after decompression
            if size > MAX_BODY_BYTES:
                raise self._failure(ExpertProtocolError, f"answers with more than {MAX_BODY_BYTES} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def _read(self, response: aiohttp.ClientResponse, clock: CallClock) -> bytes:
        """What has come, b"" at the body's end. The limit is around this one read and never across a yield, since a
        generator's steps may run in different tasks."""
        until, limit = clock.limit()
        failure: ExpertError
        try:
            async with asyncio.timeout_at(until):
                return await response.content.readany()
        except TimeoutError:
            failure = self._failure(ExpertTimeoutError, limit)
        except aiohttp.ClientError as error:
            failure = self._failure(TruncatedReplyError, f"broke off its answer ({str(error) or type(error).__name__})")
        raise failure

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        token = self.expert.token()
        if token is not None:
            if not token.isascii() or not token.isprintable():
                del token  # for the same reason
                msg = f"expert {self.expert.name!r}: its token can't stand in a header: look for a line end in it"
                raise ConfigurationError(msg)
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _unreached(self, error: Exception, limit: str) -> ExpertError:
        """What an error before the answer means; `limit` tells of the time limit that may have passed."""
        if isinstance(error, aiohttp.ServerTimeoutError):
            return self._failure(ExpertTimeoutError, f"gives no connection within {self.timeouts.connect:g} s")
        if isinstance(error, TimeoutError):
            return self._failure(ExpertTimeoutError, limit)
        if isinstance(error, aiohttp.ClientResponseError):
            return self._failure(ExpertProtocolError, f"answers something that is no HTTP ({error.message})")
        return self._failure(ExpertConnectionError, f"can't be reached ({str(error) or type(error).__name__})")

    def _failure(self, kind: type[ExpertError], what: str) -> ExpertError:
        return kind(f"expert {self.expert.name!r} at {self.url} {what}", expert=self.expert.name)


class _Steps(Protocol[T_co]):
    """What `ChatStream` and `GenerationStream` have in common."""

    done: bool
    ended: bool

    @property
    def partial_text(self) -> str: ...
    def feed(self, data: bytes) -> T_co | None: ...
    def close(self) -> T_co: ...


class CallClock:
    """The limits of one call, as moments of the running loop's clock, with what is to be said of each."""

    __slots__ = ("_first", "_idle", "_loop", "_silent", "_total", "started")

    def __init__(self, timeouts: Timeouts, deadline: float | None, *, stream: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        total = timeouts.total if deadline is None else min(deadline, timeouts.total)
        self._total = (now + total, f"has not finished within {total:g} s")
        self._first = (now + timeouts.first_byte, f"sends no event within {timeouts.first_byte:g} s")
        self._idle = timeouts.idle if stream else math.inf
        self._silent = f"is silent for {timeouts.idle:g} s"
        self.started = not stream

    def limit(self) -> tuple[float, str]:
        """The next moment at which to give up."""
        next_one = (self._loop.time() + self._idle, self._silent) if self.started else self._first
        return min(next_one, self._total)

    def left(self) -> float:
        """Seconds until the whole call must be over."""
        return self._total[0] - self._loop.time()

    def shorten(self, seconds: float) -> None:
        """Give up after so many more seconds at the latest."""
        self._total = min(self._total, (self._loop.time() + seconds, f"has not finished within {seconds:g} s"))


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the little that follows the last event, so that the connection can be used again."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await response.content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError):
        pass  # the caller closes it

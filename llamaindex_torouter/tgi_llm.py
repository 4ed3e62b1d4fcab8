"""TGILLM: one TGI endpoint, or another server with `/v1/chat/completions`, as a LlamaIndex LLM."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Self

from llama_index.core.base.llms.generic_utils import (
    astream_chat_response_to_completion_response,
    chat_response_to_completion_response,
    prompt_to_messages,
    stream_chat_response_to_completion_response,
)
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

from llamaindex_torouter.base import ROUTING_TEXT, ExpertLLM
from llamaindex_torouter.messages import Answer, from_reply, to_openai
from torouter.chat import ChatRequest
from torouter.endpoints import TGIClient, Timeouts, client_for
from torouter.endpoints.request import default_max_tokens
from torouter.experts import Ability, Api, Expert
from torouter.runtime import background
from torouter.runtime.retry import retried, started

# Keywords that are LlamaIndex's or ours and say nothing to an expert's server.
_NOT_SENT = ("model", "timeout", "formatted", "exclude", ROUTING_TEXT)


class TGILLM(ExpertLLM):
    """An LLM behind a Text Generation Inference (TGI) endpoint.

    Synchronous methods run the asynchronous ones. `response.raw` holds `model`, `finish_reason` and `usage`.

    Examples:
        ```python
        from llamaindex_torouter import TGILLM

        llm = TGILLM(base_url="http://127.0.0.1:8080", temperature=0)
        llm.complete("What is a router?").text
        ```

    Raises:
        ConfigurationError: An argument can't be used; the message names it and the fix.
    """

    base_url: str = Field(
        default_factory=lambda: os.environ.get("TGI_BASE_URL", "http://127.0.0.1:3000"),
        description="Address of the server; by default that of TGI_BASE_URL, or TGI's own default port.",
    )
    model: str | None = Field(default=None, description='LoRA adapter (api "tgi") or served model (api "openai").')
    api: Api = Field(default="tgi", description='"openai" for vLLM, SGLang, llama.cpp and `transformers serve`.')
    api_key: SecretStr | None = Field(default=None, exclude=True, description="The token; by default TGI_API_KEY.")
    abilities: tuple[Ability, ...] = Field(
        default=("tools", "json_schema"), description="What the served model can do beyond text."
    )
    context_window: int | None = Field(default=None, description="Tokens of input and output together.")
    max_retries: int = Field(default=2, ge=0, description="Further tries after a passing failure.")
    timeouts: Timeouts = Field(default=Timeouts(), exclude=True, description="Limits of one request.")

    _expert: Expert = PrivateAttr()
    _client: TGIClient = PrivateAttr()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Not in a validator: pydantic would wrap our errors into its own.
        self._expert = Expert(
            name="TGILLM",
            url=self.base_url,
            api=self.api,
            model=self.model if self.api == "openai" else None,
            adapter=self.model if self.api == "tgi" else None,
            api_key=self.api_key or None,  # type: ignore[arg-type]  # Expert takes a SecretStr and keeps a Secret
            api_key_env="TGI_API_KEY" if self.api_key is None and os.environ.get("TGI_API_KEY") else None,
            abilities=frozenset(self.abilities),
            context_window=self.context_window,
        )
        self._client = TGIClient(self._expert, timeouts=self.timeouts)

    @classmethod
    def of_expert(cls, expert: Expert, *, url: str | None = None, **fields: Any) -> Self:
        """An LLM that asks this expert, with all that its description says: token, prefix and parameters.

        Args:
            expert: The expert.
            url: Which of its urls to ask, by default the first.
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
        llm._expert, llm._client = expert, client_for(expert, url=url, timeouts=llm.timeouts)
        return llm

    @classmethod
    def class_name(cls) -> str:
        return "torouter_tgi_llm"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.context_window or DEFAULT_CONTEXT_WINDOW,
            num_output=self.max_tokens or longest_answer(self._expert),
            is_chat_model=True,
            is_function_calling_model="tools" in self.abilities,
            model_name=self._expert.served_model,
        )

    def to_payload(self) -> dict[str, Any]:
        return {**super().to_payload(), "expert": self._expert.name}

    def _abilities(self) -> frozenset[Ability]:
        return frozenset(self.abilities)

    # --- LlamaIndex's eight methods ---

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return background.run(self._answer(messages, kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await self._answer(messages, kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return background.iterate(self._stream(messages, kwargs))  # type: ignore[return-value]  # it is a generator

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        return self._stream(messages, kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return chat_response_to_completion_response(background.run(self._answer(prompt_to_messages(prompt), kwargs)))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return chat_response_to_completion_response(await self._answer(prompt_to_messages(prompt), kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        steps: Any = background.iterate(self._stream(prompt_to_messages(prompt), kwargs))
        return stream_chat_response_to_completion_response(steps)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        return astream_chat_response_to_completion_response(self._stream(prompt_to_messages(prompt), kwargs))

    # --- asking ---

    async def _answer(self, messages: Sequence[ChatMessage], given: dict[str, Any]) -> ChatResponse:
        options = self._options(given)
        request, client, seconds = _request(messages, options), self._client_for(options), options.get("timeout")
        reply = await retried(
            lambda: client.chat(request, deadline=seconds), max_retries=self.max_retries, seconds=seconds
        )
        return from_reply(reply, model_name=reply.model or client.expert.served_model)

    async def _stream(
        self, messages: Sequence[ChatMessage], given: dict[str, Any]
    ) -> AsyncGenerator[ChatResponse, None]:
        options = self._options(given)
        request, client, seconds = _request(messages, options), self._client_for(options), options.get("timeout")
        first, stream = await retried(
            lambda: started(client.chat_stream(request, deadline=seconds)),
            max_retries=self.max_retries,
            seconds=seconds,
        )
        async with aclosing(stream):
            answer = Answer(first.model or client.expert.served_model)
            yield answer.add(first)
            async for chunk in stream:
                yield answer.add(chunk)

    def _client_for(self, options: dict[str, Any]) -> TGIClient:
        model = options.get("model")
        if model is None or model == self.model:
            return self._client
        field = "model" if self.api == "openai" else "adapter"
        return client_for(replace(self._expert, **{field: model}), url=self._client.url, timeouts=self.timeouts)


def longest_answer(expert: Expert) -> int:
    """The most tokens of an answer to a call that does not say it: what LlamaIndex keeps free for it."""
    return int(expert.parameters.get("max_tokens") or default_max_tokens(expert))


def _request(messages: Sequence[ChatMessage], options: dict[str, Any]) -> ChatRequest:
    parameters = {name: value for name, value in options.items() if name not in _NOT_SENT}
    return ChatRequest(
        messages=to_openai(messages),
        tools=tuple(parameters.pop("tools", ())),
        tool_choice=parameters.pop("tool_choice", None),
        response_format=parameters.pop("response_format", None),
        parameters=parameters,
    )

"""What TGILLM and RoutedLLM share: standard parameters, tools and structured output."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.llms.utils import parse_partial_json
from llama_index.core.program.utils import get_program_for_llm
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.types import PydanticProgramMode

from torouter.endpoints.tool_choice import normalized_tool_choice
from torouter.experts import Ability
from torouter.runtime import background
from torouter.runtime.call_options import CallOptions

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool

_IGNORED = ("formatted",)
"""Keywords that are LlamaIndex's own and mean nothing to an expert's server."""
ROUTING_TEXT = "routing_text"
"""The per-call keyword, and the key under which a message made of a template carries the template's question."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an LLM, before it is known which expert answers it."""

    messages: Sequence[ChatMessage]
    options: CallOptions
    tool_options: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `chat_with_tools`, where `options.tools` are LlamaIndex's own and not OpenAI's objects."""
    sync: bool = False
    """Whether the caller used a synchronous method."""


class ExpertLLM(FunctionCallingLLM):
    """An LLM whose answers come from experts over HTTP; synchronous methods run the asynchronous ones."""

    temperature: float | None = Field(default=None, description="Sampling temperature; None leaves it to the expert.")
    max_tokens: int | None = Field(default=None, gt=0, description="Most tokens of an answer.")
    top_p: float | None = Field(default=None, description="Nucleus sampling mass.")
    seed: int | None = Field(default=None, description="Seed of sampling.")
    stop: list[str] | None = Field(default=None, description="Texts that end an answer; they are not part of it.")
    timeout: float | None = Field(default=None, gt=0, description="Seconds that one call may take in all.")

    model_config = ConfigDict(hide_input_in_errors=True, protected_namespaces=())

    if TYPE_CHECKING:
        # Not abstract at run time: LlamaIndex opens a span for each implementation of an abstract method.

        def _abilities(self) -> frozenset[Ability]:
            """What can be asked for beyond text."""

        async def _answer(self, call: Call) -> ChatResponse:
            """Answer one call."""

        def _answer_stream(self, call: Call) -> AsyncGenerator[ChatResponse, None]:
            """Answer one call piece by piece."""

    def _call(self, messages: Sequence[ChatMessage], keywords: Mapping[str, Any], *, sync: bool = False) -> Call:
        """A call with the LLM's own parameters, overridden by the call's keywords."""
        own = {name: getattr(self, name) for name in ("temperature", "max_tokens", "top_p", "seed", "stop", "timeout")}
        return Call(messages, CallOptions.of(own, keywords, ignored=_IGNORED), sync=sync)

    # The bodies of LlamaIndex's methods. The call is made where the caller's context is, not in a stream's first step.

    def _chat(self, messages: Sequence[ChatMessage], keywords: Mapping[str, Any]) -> ChatResponse:
        return background.run(self._answer(self._call(messages, keywords, sync=True)))

    async def _achat(self, messages: Sequence[ChatMessage], keywords: Mapping[str, Any]) -> ChatResponse:
        return await self._answer(self._call(messages, keywords))

    def _stream_chat(self, messages: Sequence[ChatMessage], keywords: Mapping[str, Any]) -> ChatResponseGen:
        stream = self._answer_stream(self._call(messages, keywords, sync=True))
        return background.iterate(stream)  # type: ignore[return-value]  # it is a generator

    def _astream_chat(self, messages: Sequence[ChatMessage], keywords: Mapping[str, Any]) -> ChatResponseAsyncGen:
        return self._answer_stream(self._call(messages, keywords))

    # --- LlamaIndex's eight methods, without callbacks: the LLM of the expert that answers opens a call's event ---

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._chat(messages, kwargs)

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await self._achat(messages, kwargs)

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return self._stream_chat(messages, kwargs)

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        return self._astream_chat(messages, kwargs)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return to_completion(self._chat(prompt_to_messages(prompt), kwargs))

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return to_completion(await self._achat(prompt_to_messages(prompt), kwargs))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        return to_completions(self._stream_chat(prompt_to_messages(prompt), kwargs))

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        return to_async_completions(self._astream_chat(prompt_to_messages(prompt), kwargs))

    # --- tools ---

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        options = {
            "tool_required": tool_required,
            "tool_choice": tool_choice,
            "allow_parallel_tool_calls": allow_parallel_tool_calls,
        }
        return {
            "messages": messages_of(user_msg, chat_history),
            **(self._tool_keywords(tools, options) if tools else {"tools": None}),
            **kwargs,
        }

    def _tool_keywords(self, tools: Sequence[BaseTool], options: dict[str, Any]) -> dict[str, Any]:
        """The keywords of `chat` for tools, in OpenAI's form."""
        choice = default_choice(options["tool_choice"], options["tool_required"])
        return {
            "tools": [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools],
            "tool_choice": normalized_tool_choice(choice, [tool.metadata.get_name() for tool in tools]),
        }

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        if not allow_parallel_tool_calls:
            message = response.message
            later = [block for block in message.blocks if isinstance(block, ToolCallBlock)][1:]
            message.blocks = [block for block in message.blocks if block not in later]
        return response

    def get_tool_calls_from_response(
        self,
        response: ChatResponse,
        error_on_no_tool_call: bool = True,
        **kwargs: Any,
    ) -> list[ToolSelection]:
        """The tool calls of an answer, of a streamed one as far as they have come.

        Raises:
            ValueError: There is none, and `error_on_no_tool_call` is set.
        """
        calls = [
            ToolSelection(
                tool_id=block.tool_call_id or "", tool_name=block.tool_name, tool_kwargs=_arguments(block.tool_kwargs)
            )
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]
        if not calls and error_on_no_tool_call:
            msg = "the answer calls no tool; ask with tool_required=True, or handle answers that are text"
            raise ValueError(msg)
        return calls

    # --- the question inside a template ---

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        # Every predict and stream comes through here, with the question apart from the context for the last time.
        return _with_question(super()._get_messages(prompt, **prompt_args), prompt, prompt_args)

    # --- structured output ---

    def structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> BaseModel:
        """As `LLM.structured_predict`: by a tool where an expert knows tools, else by text under a JSON schema."""
        llm_kwargs = self._structured(output_cls, prompt, llm_kwargs, prompt_args)
        found: BaseModel = super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        return found

    async def astructured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> BaseModel:
        """The asynchronous twin of `structured_predict`."""
        llm_kwargs = self._structured(output_cls, prompt, llm_kwargs, prompt_args)
        found: BaseModel = await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        return found

    def _structured_stream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        llm_kwargs = self._structured(output_cls, prompt, llm_kwargs, prompt_args)
        program = self._streaming_program(output_cls, prompt)
        return program.stream_call(llm_kwargs=llm_kwargs, **prompt_args)

    async def _structured_astream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        llm_kwargs = self._structured(output_cls, prompt, llm_kwargs, prompt_args)
        program = self._streaming_program(output_cls, prompt)
        return await program.astream_call(llm_kwargs=llm_kwargs, **prompt_args)

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: Any) -> StructuredLLM:
        """An LLM whose answers are objects of `output_cls`."""
        return _StructuredLLM(llm=self, output_cls=output_cls, **kwargs)

    def _streaming_program(self, output_cls: type[BaseModel], prompt: PromptTemplate) -> _Program:
        # LlamaIndex leaves the choice of the tool to the model when it streams; an object is what is asked for here.
        options = {"tool_choice": "required"} if self._by_tools else {}
        program: Any = get_program_for_llm(output_cls, prompt, self, self.pydantic_program_mode, **options)
        return program  # type: ignore[no-any-return]

    def _structured(
        self,
        output_cls: type[BaseModel],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None,
        prompt_args: dict[str, Any],
    ) -> dict[str, Any]:
        options = dict(llm_kwargs or {})
        question = _question_of(prompt, prompt_args)
        if question is not None:
            options.setdefault(ROUTING_TEXT, question)
        if not self._by_tools and "json_schema" in self._abilities():
            body = {"name": output_cls.__name__, "schema": output_cls.model_json_schema()}
            options.setdefault("response_format", {"type": "json_schema", "json_schema": body})
        return options

    @property
    def _by_tools(self) -> bool:
        if self.pydantic_program_mode == PydanticProgramMode.DEFAULT:
            return "tools" in self._abilities()
        return self.pydantic_program_mode == PydanticProgramMode.FUNCTION


class _StructuredLLM(StructuredLLM):
    """LlamaIndex's own, that does not lose the question of a template on its way to the LLM inside."""

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        return _with_question(super()._get_messages(prompt, **prompt_args), prompt, prompt_args)


class _Program(Protocol):
    def stream_call(self, *, llm_kwargs: dict[str, Any], **kwargs: Any) -> Generator[Any, None, None]: ...
    async def astream_call(self, *, llm_kwargs: dict[str, Any], **kwargs: Any) -> AsyncGenerator[Any, None]: ...


def _question_of(prompt: BasePromptTemplate, prompt_args: dict[str, Any]) -> str | None:
    """What stands for `query_str`, the variable in which all of LlamaIndex's templates take the user's question."""
    question = {**prompt.kwargs, **prompt_args}.get("query_str")
    return question if isinstance(question, str) and question else None


def _with_question(
    messages: list[ChatMessage], prompt: BasePromptTemplate, prompt_args: dict[str, Any]
) -> list[ChatMessage]:
    """The messages, the last of which carries the question beside its text."""
    question = _question_of(prompt, prompt_args)
    if question is None or not messages:
        return messages
    beside = {**messages[-1].additional_kwargs, ROUTING_TEXT: question}
    return [*messages[:-1], messages[-1].model_copy(update={"additional_kwargs": beside})]


def messages_of(user_msg: str | ChatMessage | None, chat_history: Sequence[ChatMessage] | None) -> list[ChatMessage]:
    """The history and the user's message after it."""
    if isinstance(user_msg, str):
        user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
    return [*(chat_history or ()), *([user_msg] if user_msg is not None else ())]


def default_choice(choice: str | dict[str, Any] | None, required: bool) -> str | dict[str, Any]:
    """The choice, or what LlamaIndex means by none."""
    return choice or ("required" if required else "auto")


def _arguments(given: dict[str, Any] | str) -> dict[str, Any]:
    if not isinstance(given, str):
        return given
    try:
        return parse_partial_json(given)
    except ValueError:
        return {}  # what has come so far is no object yet

"""ExpertLLM: standard parameters, tools and structured output, shared by TGILLM and RoutedLLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
from llama_index.core.types import BasePydanticProgram, PydanticProgramMode

from torouter.endpoints.tool_choice import normalized_tool_choice
from torouter.experts import Ability
from torouter.runtime import background
from torouter.runtime.call_options import CallOptions

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool

_IGNORED = ("formatted",)
"""LlamaIndex's own keywords, which an expert's server does not know."""
ROUTING_TEXT = "routing_text"
"""The per-call keyword, and the key under which a message made from a template carries the question."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an LLM, before an expert is chosen."""

    messages: Sequence[ChatMessage]
    options: CallOptions
    tool_options: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `chat_with_tools`, where `options.tools` are LlamaIndex tools and not OpenAI objects."""
    sync: bool = False
    """Whether the caller used a synchronous method."""


class ExpertLLM(FunctionCallingLLM):
    """Base of the LLMs of this package; its synchronous methods run the asynchronous ones."""

    temperature: float | None = Field(default=None, description="Sampling temperature; None leaves it to the expert.")
    max_tokens: int | None = Field(default=None, gt=0, description="Most tokens of an answer.")
    top_p: float | None = Field(default=None, description="Probability mass of nucleus sampling.")
    seed: int | None = Field(default=None, description="Seed of sampling.")
    stop: list[str] | None = Field(default=None, description="Texts that end an answer; it does not contain them.")
    timeout: float | None = Field(default=None, gt=0, description="Seconds for one whole call.")

    model_config = ConfigDict(hide_input_in_errors=True, protected_namespaces=())

    if TYPE_CHECKING:
        # Not abstract at run time: LlamaIndex opens a span for each implementation of an abstract method.

        def _abilities(self) -> frozenset[Ability]:
            """What the LLM can do beyond text."""

        async def _answer(self, call: Call) -> ChatResponse:
            """Answer one call."""

        def _answer_stream(self, call: Call) -> AsyncGenerator[ChatResponse, None]:
            """Answer one call as a stream."""

    def _call(self, messages: Sequence[ChatMessage], keywords: Mapping[str, Any], *, sync: bool = False) -> Call:
        """A call with the LLM's parameters, overridden by the call's keywords."""
        fields = ("temperature", "max_tokens", "top_p", "seed", "stop", "timeout")
        defaults = {name: getattr(self, name) for name in fields}
        return Call(messages, CallOptions.of(defaults, keywords, ignored=_IGNORED), sync=sync)

    # The bodies of LlamaIndex's methods. A stream's call is made at once, in the caller's context.

    def _chat(self, messages: Sequence[ChatMessage], keywords: Mapping[str, Any]) -> ChatResponse:
        return background.run(self._answer(self._call(messages, keywords, sync=True)))

    async def _achat(self, messages: Sequence[ChatMessage], keywords: Mapping[str, Any]) -> ChatResponse:
        return await self._answer(self._call(messages, keywords))

    def _stream_chat(self, messages: Sequence[ChatMessage], keywords: Mapping[str, Any]) -> ChatResponseGen:
        stream = self._answer_stream(self._call(messages, keywords, sync=True))
        return background.iterate(stream)  # type: ignore[return-value]  # it is a generator

    def _astream_chat(self, messages: Sequence[ChatMessage], keywords: Mapping[str, Any]) -> ChatResponseAsyncGen:
        return self._answer_stream(self._call(messages, keywords))

    # --- LlamaIndex's eight methods, without callbacks: the LLM of the expert that answers emits the call's events ---

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
            surplus = [block for block in message.blocks if isinstance(block, ToolCallBlock)][1:]
            message.blocks = [block for block in message.blocks if block not in surplus]
        return response

    def get_tool_calls_from_response(
        self,
        response: ChatResponse,
        error_on_no_tool_call: bool = True,
        **kwargs: Any,
    ) -> list[ToolSelection]:
        """The tool calls of an answer; of a streamed one, those so far.

        Raises:
            ValueError: The answer has none, and `error_on_no_tool_call` is set.
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
        # `predict` and `stream` call this; it is the last place where the question is apart from the context.
        return _with_question(super()._get_messages(prompt, **prompt_args), prompt, prompt_args)

    # --- structured output ---

    def structured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> BaseModel:
        """As `LLM.structured_predict`: by a tool call where an expert supports tools, else by a JSON schema."""
        llm_kwargs = self._structured_options(output_cls, prompt, llm_kwargs, prompt_args)
        answer: BaseModel = super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        return answer

    async def astructured_predict(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> BaseModel:
        """The asynchronous version of `structured_predict`."""
        llm_kwargs = self._structured_options(output_cls, prompt, llm_kwargs, prompt_args)
        answer: BaseModel = await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        return answer

    def _structured_stream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        llm_kwargs = self._structured_options(output_cls, prompt, llm_kwargs, prompt_args)
        program = self._streaming_program(output_cls, prompt)
        return program.stream_call(llm_kwargs=llm_kwargs, **prompt_args)

    async def _structured_astream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        llm_kwargs = self._structured_options(output_cls, prompt, llm_kwargs, prompt_args)
        program = self._streaming_program(output_cls, prompt)
        return await program.astream_call(llm_kwargs=llm_kwargs, **prompt_args)

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: Any) -> StructuredLLM:
        """An LLM whose answers are objects of `output_cls`."""
        return _StructuredLLM(llm=self, output_cls=output_cls, **kwargs)

    def _streaming_program(self, output_cls: type[BaseModel], prompt: PromptTemplate) -> BasePydanticProgram[Any]:
        # When it streams, LlamaIndex lets the model choose whether to call the tool; an object requires the call.
        options = {"tool_choice": "required"} if self._uses_tools else {}
        return get_program_for_llm(output_cls, prompt, self, self.pydantic_program_mode, **options)

    def _structured_options(
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
        if not self._uses_tools and "json_schema" in self._abilities():
            body = {"name": output_cls.__name__, "schema": output_cls.model_json_schema()}
            options.setdefault("response_format", {"type": "json_schema", "json_schema": body})
        return options

    @property
    def _uses_tools(self) -> bool:
        if self.pydantic_program_mode == PydanticProgramMode.DEFAULT:
            return "tools" in self._abilities()
        return self.pydantic_program_mode == PydanticProgramMode.FUNCTION


class _StructuredLLM(StructuredLLM):
    """LlamaIndex's class, with messages that keep the question of their template for routing."""

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        return _with_question(super()._get_messages(prompt, **prompt_args), prompt, prompt_args)


def _question_of(prompt: BasePromptTemplate, prompt_args: dict[str, Any]) -> str | None:
    """The value of `query_str`, the variable for the user's question in all of LlamaIndex's templates."""
    question = {**prompt.kwargs, **prompt_args}.get("query_str")
    return question if isinstance(question, str) and question else None


def _with_question(
    messages: list[ChatMessage], prompt: BasePromptTemplate, prompt_args: dict[str, Any]
) -> list[ChatMessage]:
    """The messages, with the template's question in the last one's `additional_kwargs`."""
    question = _question_of(prompt, prompt_args)
    if question is None or not messages:
        return messages
    extra = {**messages[-1].additional_kwargs, ROUTING_TEXT: question}
    return [*messages[:-1], messages[-1].model_copy(update={"additional_kwargs": extra})]


def messages_of(user_msg: str | ChatMessage | None, chat_history: Sequence[ChatMessage] | None) -> list[ChatMessage]:
    """The history, followed by the user's message."""
    if isinstance(user_msg, str):
        user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
    return [*(chat_history or ()), *([user_msg] if user_msg is not None else ())]


def default_choice(choice: str | dict[str, Any] | None, required: bool) -> str | dict[str, Any]:
    """The choice, or LlamaIndex's default where none is given."""
    return choice or ("required" if required else "auto")


def _arguments(tool_kwargs: dict[str, Any] | str) -> dict[str, Any]:
    if not isinstance(tool_kwargs, str):
        return tool_kwargs
    try:
        return parse_partial_json(tool_kwargs)
    except ValueError:
        return {}  # the text so far is no object yet

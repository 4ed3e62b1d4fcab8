"""ExpertChatModel: standard parameters, tools and structured output, shared by ChatTGI and RoutedChatModel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, Literal

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import JsonOutputKeyToolsParser, JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.base import OutputParserLike
from langchain_core.output_parsers.openai_tools import PydanticToolsParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, ConfigDict, Field

from langchain_torouter.errors import langchain_errors
from langchain_torouter.messages import to_openai
from torouter.chat import ChatRequest
from torouter.endpoints.tool_choice import normalized_tool_choice
from torouter.experts import Ability
from torouter.runtime import background
from torouter.runtime.call_options import CallOptions

StructuredOutputMethod = Literal["json_schema", "function_calling", "json_mode"]

_IGNORED = (
    "stream",
    "stream_usage",
    "ls_structured_output_format",
    "structured_output_format",
    "strict",
    "parallel_tool_calls",
)
"""LangChain's own keywords, which an expert's server does not know."""


@dataclass
class Call:
    """One call of a chat model, before an expert is chosen."""

    messages: list[BaseMessage]
    options: CallOptions
    stop: list[str] | None
    run_manager: Any
    """LangChain's callback manager for the run."""
    sync: bool = False
    """Whether the caller used a synchronous method."""

    @cached_property
    def request(self) -> ChatRequest:
        """The request to an expert behind a url; built once, however many experts are called."""
        return self.options.request(to_openai(self.messages))


class ExpertChatModel(BaseChatModel):
    """Base of the chat models of this package; its synchronous methods run the asynchronous ones."""

    temperature: float | None = None
    """Sampling temperature; 0 is greedy. None leaves it to the expert's own default."""
    max_tokens: int | None = None
    """Most tokens of an answer."""
    top_p: float | None = None
    """Probability mass of nucleus sampling."""
    seed: int | None = None
    """Seed of sampling."""
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    """Texts that end an answer; the answer does not contain them."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds for one whole call, including failover."""
    streaming: bool = False
    """Whether `invoke` streams internally, so that callbacks receive tokens."""

    model_config = ConfigDict(
        populate_by_name=True, arbitrary_types_allowed=True, protected_namespaces=(), hide_input_in_errors=True
    )

    @abstractmethod
    async def _answer(self, call: Call) -> ChatResult:
        """Answer one call."""

    @abstractmethod
    def _answer_stream(self, call: Call) -> AsyncGenerator[ChatGenerationChunk, None]:
        """Answer one call as a stream, with LangChain's errors."""

    def _defaults(self) -> dict[str, Any]:
        """The model's own request parameters; a call's keywords override them."""
        return {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": self.stop or None,
        }

    def _options(self, *keywords: Mapping[str, Any]) -> CallOptions:
        """A call's options: the model's own parameters, overridden by each of `keywords` in turn."""
        return CallOptions.of(self._defaults(), {"timeout": self.timeout}, *keywords, ignored=_IGNORED)

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: Any,
        keywords: Mapping[str, Any],
        *,
        sync: bool = False,
    ) -> Call:
        return Call(messages, self._options(keywords, {"stop": stop}), stop, run_manager, sync)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "torouter"
        params.setdefault("ls_model_name", self._llm_type)
        return params

    # --- generating ---

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with langchain_errors():
            return background.run(self._answer(self._call(messages, stop, run_manager, kwargs, sync=True)))

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with langchain_errors():
            return await self._answer(self._call(messages, stop, run_manager, kwargs))

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        return background.iterate(self._answer_stream(self._call(messages, stop, run_manager, kwargs, sync=True)))

    def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        return self._answer_stream(self._call(messages, stop, run_manager, kwargs))

    # --- tools and structured output ---

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools that it may call.

        Args:
            tools: Tools as LangChain tools, functions, pydantic classes or OpenAI tool objects.
            tool_choice: "auto", "none", "required", "any" or True (the same as "required"), a tool's name, or OpenAI's
                object that names one. None leaves the choice to the expert.
            strict: Whether arguments must follow the schema strictly; added to the tools' definitions.
            kwargs: Further keywords for every call.

        Raises:
            ConfigurationError: `tool_choice` names a tool that is not among `tools`.
        """
        converted = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        if tool_choice:
            names = [tool["function"]["name"] for tool in converted]
            kwargs["tool_choice"] = normalized_tool_choice(tool_choice, names)
        return self.bind(tools=converted, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: StructuredOutputMethod = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """The model with answers that are objects of `schema`.

        Args:
            schema: A pydantic class, a TypedDict class, a JSON schema or an OpenAI function object.
            method: "json_schema" constrains the answer by a grammar of the schema; "function_calling" takes it from the
                arguments of one tool call; "json_mode" asks for JSON without the schema, so the prompt must state it.
            include_raw: Whether to return `{"raw": message, "parsed": object or None, "parsing_error": error or None}`.
            strict: Sent to the expert with the schema.
            kwargs: Further keywords for every call.

        Raises:
            ValueError: `method` is unknown.
        """
        trace_hint = {"ls_structured_output_format": {"kwargs": {"method": method, "strict": strict}, "schema": schema}}
        parser: OutputParserLike[Any]
        if method == "function_calling":
            name = convert_to_openai_tool(schema)["function"]["name"]
            llm = self.bind_tools([schema], tool_choice=name, strict=strict, **trace_hint, **kwargs)
            if isinstance(schema, type) and is_basemodel_subclass(schema):
                parser = PydanticToolsParser(tools=[schema], first_tool_only=True)
            else:
                parser = JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        elif method in ("json_schema", "json_mode"):
            response_format = {"type": "json_object"} if method == "json_mode" else _json_schema_format(schema, strict)
            llm = self.bind(response_format=response_format, **trace_hint, **kwargs)
            if isinstance(schema, type) and is_basemodel_subclass(schema):
                parser = PydanticOutputParser(pydantic_object=schema)
            else:
                parser = JsonOutputParser()
        else:
            msg = f"method={method!r} is unknown: use 'json_schema', 'function_calling' or 'json_mode'"
            raise ValueError(msg)
        if not include_raw:
            return llm | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def profile_of(abilities: frozenset[Ability], context_window: int | None) -> ModelProfile:
    """LangChain's profile of a model with these abilities."""
    profile = ModelProfile(
        text_inputs=True,
        text_outputs=True,
        tool_calling="tools" in abilities,
        tool_choice="tools" in abilities,
        structured_output="json_schema" in abilities,
        image_inputs="images" in abilities,
        image_url_inputs="images" in abilities,
    )
    if context_window is not None:
        profile["max_input_tokens"] = context_window
    return profile


def _json_schema_format(schema: dict[str, Any] | type, strict: bool | None) -> dict[str, Any]:
    json_schema = convert_to_json_schema(schema, strict=strict)
    body: dict[str, Any] = {"name": json_schema.pop("title", None) or "response", "schema": json_schema}
    if strict is not None:
        body["strict"] = strict
    return {"type": "json_schema", "json_schema": body}

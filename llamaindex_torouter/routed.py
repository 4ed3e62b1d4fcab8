"""RoutedLLM: a LlamaIndex LLM whose every call goes to the expert that a trained router ranks first."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

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
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # a re-export
from llama_index.core.llms.llm import LLM
from llama_index.core.tools.types import BaseTool

from llamaindex_torouter.base import ROUTING_TEXT, ExpertLLM, chosen_tool, messages_of
from llamaindex_torouter.events import RouteDecisionEvent, RouteServedEvent
from llamaindex_torouter.messages import conversation_text, has_image, last_user_text
from llamaindex_torouter.models import Call, ask_model, expert_of, stream_model
from llamaindex_torouter.tgi_llm import TGILLM, longest_answer
from torouter.chat import Attempt
from torouter.dispatch import AnswerFacts, DispatchHook, DispatchSettings, Target
from torouter.endpoints import Timeouts
from torouter.errors import ExpertError
from torouter.experts import Ability
from torouter.routing.decision import RouteDecision, routing_block
from torouter.routing.policy import RoutingPolicy
from torouter.routing.requirements import Requirements
from torouter.routing.routing_text import given_routing_text
from torouter.runtime import background
from torouter.runtime.health import Health
from torouter.runtime.routed_experts import RoutedExperts, RouteQuery, pool_and_models

if TYPE_CHECKING:
    from llama_index.core.base.llms.types import MessageRole

dispatcher = get_dispatcher(__name__)

RoutingText = Literal["last_user", "conversation"] | Callable[[Sequence[ChatMessage]], str]
_TOOL_OPTIONS = ("tool_required", "tool_choice", "allow_parallel_tool_calls")


class RoutedLLM(ExpertLLM):
    """An LLM that asks, for each call, the expert that a trained router expects to answer it best.

    If that expert can't answer, the next one of this query's own ranking does, as long as no token has come.
    `response.additional_kwargs["routing"]` tells the answer's way.

    Per call, as keywords of `chat`, `complete` and their twins:
        model: the one expert that may answer.
        exclude: experts that may not.
        routing_text: the text to route by.
        policy: a RoutingPolicy in place of the LLM's own.
        session: key of a conversation that shall stay with its expert unless another one is much better.
        timeout: seconds, one deadline over all experts tried.

    The router reads the first of these that there is: the keyword `routing_text`; the text of an enclosing
    `with torouter.routing_text(...)`; the question (`query_str`) where the messages were made from one of LlamaIndex's
    templates, so that query and chat engines are routed by the question and not by the context around it; what the
    field `routing_text` says.

    Examples:
        ```python
        from llamaindex_torouter import RoutedLLM

        llm = RoutedLLM(
            router="my-router",
            experts={"code": "http://127.0.0.1:8080", "math": "http://127.0.0.1:8081"},
        )
        llm.complete("Write a function that reverses a list.").additional_kwargs["routing"]["expert"]
        index.as_query_engine(llm=llm).query("...")
        ```

    Raises:
        ConfigurationError: Router and experts do not fit, or an argument can't be used.
        CheckpointError: The router can't be loaded.
    """

    router: Any = Field(exclude=True, description="A trained router, its directory, or its id on the Hub.")
    experts: Any = Field(
        exclude=True,
        repr=False,  # a mapping of fields may hold a token
        description="Path of an experts.yaml, an ExpertPool, or a mapping from name to a url, an Expert or any "
        "LlamaIndex LLM. Names are those that the router was trained with.",
    )
    policy: RoutingPolicy = Field(default=RoutingPolicy(), exclude=True, description="From scores to a ranking.")
    routing_text: RoutingText = Field(
        default="last_user",
        exclude=True,
        description="What the router reads: the last user turn, the conversation, or a function of the messages.",
    )
    settings: DispatchSettings = Field(
        default=DispatchSettings(rounds=3), exclude=True, description="Limits of failover."
    )
    timeouts: Timeouts = Field(default=Timeouts(), exclude=True, description="Limits of one request to one expert.")
    hooks: Sequence[DispatchHook] = Field(
        default=(),
        exclude=True,
        repr=False,
        description="Observers of decisions, attempts and outcomes, such as `torouter.OpenTelemetryHook()`.",
    )
    max_retries: int | None = Field(
        default=None,
        ge=0,
        description="Further walks over the ranking once every expert has failed for a passing reason, each after a "
        "cool-down; the same as `settings.rounds` less one, over which it wins.",
    )

    _routed: RoutedExperts = PrivateAttr()
    _models: dict[str, LLM] = PrivateAttr(default_factory=dict)
    _endpoints: dict[tuple[str, str, int | None], TGILLM] = PrivateAttr(default_factory=dict)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Not in a validator: pydantic would wrap our errors into its own.
        pool, self._models = pool_and_models(self.experts, LLM, expert_of)  # type: ignore[type-abstract]
        if isinstance(self.experts, Mapping):
            self.experts = {**pool, **self._models}  # a mapping of plain fields would take a token into a pickle
        settings = self.settings
        if self.max_retries is not None:
            settings = replace(settings, rounds=self.max_retries + 1)
        self._routed = RoutedExperts(
            self.router, pool, policy=self.policy, settings=settings, timeouts=self.timeouts, hooks=self.hooks
        )

    @classmethod
    def class_name(cls) -> str:
        return "torouter_routed_llm"

    @property
    def metadata(self) -> LLMMetadata:
        """What holds whichever expert answers: the smallest window, the longest answer; tools if one knows them."""
        experts = self._routed.experts
        windows = [expert.context_window for expert in experts.values() if expert.context_window is not None]
        outside = self._models
        longest = max(
            outside[name].metadata.num_output if name in outside else longest_answer(expert)
            for name, expert in experts.items()
        )
        roles: set[MessageRole] = {model.metadata.system_role for model in outside.values()}
        common = {"system_role": roles.pop()} if len(roles) == 1 and len(outside) == len(experts) else {}
        return LLMMetadata(
            context_window=min(windows, default=DEFAULT_CONTEXT_WINDOW),
            num_output=self.max_tokens or longest,
            is_chat_model=True,
            is_function_calling_model="tools" in self._abilities(),
            model_name=f"torouter({', '.join(experts.names)})",
            **common,
        )

    def to_payload(self) -> dict[str, Any]:
        return {**super().to_payload(), "router": self._routed.router.revision}

    def _abilities(self) -> frozenset[Ability]:
        return frozenset(ability for expert in self._routed.experts.values() for ability in expert.abilities)

    def route(self, prompt: str | Sequence[ChatMessage], **kwargs: Any) -> RouteDecision:
        """The decision that a call with this prompt, or these messages, would get; no expert is asked.

        Args:
            prompt: What `complete` or `chat` takes.
            kwargs: Per-call keywords such as `model`, `exclude` and `tools`.
        """
        messages = prompt_to_messages(prompt) if isinstance(prompt, str) else prompt
        return self._routed.decide(self._query(messages, kwargs))

    def health(self) -> Health:
        """The state of every expert's replicas: load, cool-down, latency and counts. Printed it is a table."""
        return self._routed.health()

    # --- LlamaIndex's eight methods ---
    # Without callback decorators: the expert's own LLM opens the event of the call. The query is made here, where the
    # caller's context is, and not in a stream's first step.

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return background.run(self._answer(self._query(messages, kwargs), self._call(messages, kwargs, sync=True)))

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await self._answer(self._query(messages, kwargs), self._call(messages, kwargs))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        stream = self._stream(self._query(messages, kwargs), self._call(messages, kwargs, sync=True))
        return background.iterate(stream)  # type: ignore[return-value]  # it is a generator

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        return self._stream(self._query(messages, kwargs), self._call(messages, kwargs))

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return chat_response_to_completion_response(self.chat(prompt_to_messages(prompt), **kwargs))

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return chat_response_to_completion_response(await self.achat(prompt_to_messages(prompt), **kwargs))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        return stream_chat_response_to_completion_response(self.stream_chat(prompt_to_messages(prompt), **kwargs))

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        responses = await self.astream_chat(prompt_to_messages(prompt), **kwargs)
        return astream_chat_response_to_completion_response(responses)

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
        # The tools stay as they are: each expert's own LLM puts them into its API's form once it is chosen.
        return {
            "messages": messages_of(user_msg, chat_history),
            "tools": tools,
            "tool_required": tool_required,
            "tool_choice": tool_choice,
            "allow_parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    # --- deciding ---

    def _query(self, messages: Sequence[ChatMessage], given: Mapping[str, Any]) -> RouteQuery:
        response_format = given.get("response_format") or {}
        inputs = [message.content or "" for message in messages]
        return RouteQuery(
            text=self._text(messages, given),
            requirements=Requirements(
                tools=bool(given.get("tools")),
                json_schema=response_format.get("type") == "json_schema",
                images=has_image(messages),
                input_tokens=self._routed.input_tokens(inputs),
                output_tokens=given.get("max_tokens") or self.max_tokens,
            ),
            pinned=given.get("model"),
            exclude=given.get("exclude") or (),
            policy=given.get("policy"),
            session=given.get("session"),
            inputs=inputs,
        )

    def _text(self, messages: Sequence[ChatMessage], given: Mapping[str, Any]) -> str:
        in_template = messages[-1].additional_kwargs.get(ROUTING_TEXT) if messages else None
        text = given.get(ROUTING_TEXT) or given_routing_text() or in_template
        if text:
            return str(text)
        if callable(self.routing_text):
            return self.routing_text(messages)
        return conversation_text(messages) if self.routing_text == "conversation" else last_user_text(messages)

    def _call(self, messages: Sequence[ChatMessage], given: Mapping[str, Any], *, sync: bool = False) -> Call:
        options = self._options(dict(given))
        for ours in ("model", "exclude", "policy", "session", ROUTING_TEXT):
            options.pop(ours, None)
        tool_options = {name: options.pop(name) for name in _TOOL_OPTIONS if name in options}
        tools = options.pop("tools", ())
        if tools and not isinstance(tools[0], BaseTool):
            choice = chosen_tool(tool_options.get("tool_choice"), required=tool_options.get("tool_required", False))
            options.update(tools=tools, tool_choice=choice)
            tools = ()
        seconds = options.pop("timeout", None)
        return Call([_without_question(message) for message in messages], seconds, options, tools, tool_options, sync)

    # --- answering ---

    async def _answer(self, query: RouteQuery, call: Call) -> ChatResponse:
        decision = await self._decided(query)
        served = await self._routed.call(decision, partial(self._ask, call), facts=_facts, deadline=call.seconds)
        self._answered(query, served.expert, served.value)
        return _signed(served.value, self._signature(decision, served.expert, served.attempts))

    async def _stream(self, query: RouteQuery, call: Call) -> AsyncGenerator[ChatResponse, None]:
        decision = await self._decided(query)
        ask = partial(self._ask_stream, call)
        stream = await self._routed.open_stream(decision, ask, facts=_facts, deadline=call.seconds)
        signature = self._signature(decision, stream.expert, stream.attempts)
        try:
            async with aclosing(stream):
                async for response in stream:
                    yield _signed(response, signature)
        except ExpertError as error:
            error.partial_text = error.partial_text or response.message.content or ""  # an LLM of the user's has none
            raise
        self._answered(query, stream.expert, response)

    def _answered(self, query: RouteQuery, expert: str, response: ChatResponse) -> None:
        self._routed.answered(expert, output_tokens=_facts(response).output_tokens, session=query.session)

    async def _decided(self, query: RouteQuery) -> RouteDecision:
        if self.rate_limiter is not None:
            await self.rate_limiter.async_acquire()
        decision = await self._routed.adecide(query)
        emit(decision)
        return decision

    async def _ask(self, call: Call, target: Target) -> ChatResponse:
        model, call = self._asked(call, target)
        return await ask_model(model, call, target.expert.name)

    async def _ask_stream(self, call: Call, target: Target) -> AsyncGenerator[ChatResponse, None]:
        model, call = self._asked(call, target)
        async with aclosing(stream_model(model, call, target.expert.name)) as responses:
            async for response in responses:
                yield response

    def _asked(self, call: Call, target: Target) -> tuple[LLM, Call]:
        """The LLM of one replica, and the call with the time that is left for it."""
        model = self._models.get(target.expert.name)
        if model is None:
            key = (target.expert.name, target.url, target.expert.context_window)  # which may become known later
            model = self._endpoints.get(key)
            if model is None:  # it retries nothing: another expert is asked at once
                model = TGILLM.of_expert(target.expert, url=target.url, timeouts=self.timeouts, max_retries=0)
                self._endpoints[key] = model
            call = call.within(target.seconds)
        if self.callback_manager.handlers:
            model.callback_manager = self.callback_manager  # what LlamaIndex's engines do with their LLM
        return model, call

    def _signature(self, decision: RouteDecision, expert: str, attempts: Sequence[Attempt]) -> dict[str, Any]:
        routing = routing_block(decision, expert, attempts)
        dispatcher.event(RouteServedEvent(expert=expert, failed_attempts=routing["failed_attempts"]))
        return routing


def emit(decision: RouteDecision) -> None:
    """Tell LlamaIndex's instrumentation of a decision."""
    dispatcher.event(RouteDecisionEvent(**decision.to_json()))


def _facts(response: ChatResponse) -> AnswerFacts:
    """What a response says of its model and tokens, where its integration keeps the server's OpenAI-like object."""
    raw = response.raw if isinstance(response.raw, Mapping) else {}
    usage = raw.get("usage")
    tokens = usage if isinstance(usage, Mapping) else {}
    return AnswerFacts(raw.get("model"), tokens.get("prompt_tokens"), tokens.get("completion_tokens"))


def _signed(response: ChatResponse, routing: dict[str, Any]) -> ChatResponse:
    return response.model_copy(update={"additional_kwargs": {**response.additional_kwargs, "routing": routing}})


def _without_question(message: ChatMessage) -> ChatMessage:
    if ROUTING_TEXT not in message.additional_kwargs:
        return message
    others = {key: value for key, value in message.additional_kwargs.items() if key != ROUTING_TEXT}
    return message.model_copy(update={"additional_kwargs": others})

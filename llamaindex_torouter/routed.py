"""RoutedLLM: a LlamaIndex LLM that sends each call to the expert that a trained router ranks first."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from llama_index.core.base.llms.generic_utils import prompt_to_messages
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # a re-export
from llama_index.core.llms.llm import LLM
from llama_index.core.tools.types import BaseTool
from pydantic import SkipValidation

from llamaindex_torouter.base import ROUTING_TEXT, Call, ExpertLLM, default_choice
from llamaindex_torouter.events import RouteDecisionEvent, RouteServedEvent
from llamaindex_torouter.messages import turns_of
from llamaindex_torouter.models import FRAMEWORK, ask_model, stream_model
from torouter.dispatch import DispatchHook, DispatchSettings, Served, ServedStream, Target
from torouter.endpoints import Timeouts
from torouter.experts import Ability, Experts
from torouter.routing.decision import RouteDecision
from torouter.routing.policy import RoutingPolicy
from torouter.routing.routing_text import TextSource
from torouter.runtime.endpoint import longest_answer
from torouter.runtime.framework_models import FrameworkExperts
from torouter.runtime.health import Health
from torouter.runtime.routed_experts import RouteQuery, RouterSource

if TYPE_CHECKING:
    from llama_index.core.base.llms.types import MessageRole

dispatcher = get_dispatcher(__name__)

_TOOL_OPTIONS = ("tool_required", "tool_choice", "allow_parallel_tool_calls")


@dataclass(frozen=True, slots=True)
class RoutedCall(Call):
    """A call, and the query of its decision."""

    query: RouteQuery = field(kw_only=True)


class RoutedLLM(ExpertLLM):
    """An LLM that sends each call to the expert that a trained router expects to answer it best.

    If that expert can't answer, the next one of this query's ranking is called, unless a token has arrived. An answer's
    `additional_kwargs["routing"]` holds the decision, the expert that answered and the failed attempts.

    Per call, as keywords of `chat`, `complete` and their asynchronous and streaming versions:
        model: The one expert that may answer.
        exclude: Experts that may not answer.
        routing_text: The text to route by.
        policy: A RoutingPolicy for this call alone.
        session: Key of a conversation that stays with its expert unless another expert is much better.
        timeout: Seconds for the whole call, with all experts tried.

    The router reads the first of these texts that is not empty: the keyword `routing_text`; the text of an enclosing
    `with torouter.routing_text(...)`; the question (`query_str`) where the messages were made from one of LlamaIndex's
    templates, so that query and chat engines route by the question without the context around it; the part of the
    messages that the field `routing_text` selects.

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
        ConfigurationError: Router and experts do not match, or an argument is invalid; the message names the fix.
        CheckpointError: The router can't be loaded.
    """

    router: Annotated[RouterSource, SkipValidation] = Field(
        exclude=True, description="A trained router, its directory, or its id on the Hub."
    )
    experts: Annotated[Experts, SkipValidation] = Field(
        exclude=True,
        repr=False,  # the user's mapping may hold a token
        description="Path of an experts.yaml, an ExpertPool, or a mapping from name to a url, an Expert or any "
        "LlamaIndex LLM. The names must be those that the router was trained with.",
    )
    policy: RoutingPolicy = Field(default=RoutingPolicy(), exclude=True, description="Turns scores into a ranking.")
    routing_text: TextSource | Callable[[Sequence[ChatMessage]], str] = Field(
        default="last_user",
        exclude=True,
        description="What the router reads: the last user message, the conversation, or a function of the messages.",
    )
    settings: DispatchSettings = Field(
        default=DispatchSettings(rounds=3), exclude=True, description="Deadline, cool-downs and limits of failover."
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
        description="Further passes over the ranking after every expert has failed temporarily, each after a "
        "cool-down. It overrides `settings.rounds`, which counts the first pass too.",
    )

    _routed: FrameworkExperts[LLM, LLM] = PrivateAttr()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Not in a validator: pydantic would wrap torouter's errors in its own.
        self._routed = FrameworkExperts.of(self, FRAMEWORK)
        if isinstance(self.experts, Mapping):
            self.experts = {**self._routed.experts, **self._routed.models}  # the user's own would pickle a token

    @classmethod
    def class_name(cls) -> str:
        return "torouter_routed_llm"

    @property
    def metadata(self) -> LLMMetadata:
        """The smallest window and the longest answer of all experts; tools where one expert supports them."""
        experts, models = self._routed.experts, self._routed.models
        longest = max(
            models[name].metadata.num_output if name in models else longest_answer(expert)
            for name, expert in experts.items()
        )
        roles: set[MessageRole] = {model.metadata.system_role for model in models.values()}
        role = {"system_role": roles.pop()} if len(roles) == 1 and len(models) == len(experts) else {}
        return LLMMetadata(
            context_window=experts.smallest_window or DEFAULT_CONTEXT_WINDOW,
            num_output=self.max_tokens or longest,
            is_chat_model=True,
            is_function_calling_model="tools" in self._abilities(),
            model_name=f"torouter({', '.join(experts.names)})",
            **role,
        )

    def to_payload(self) -> dict[str, Any]:
        return {**super().to_payload(), "router": self._routed.router.revision}

    def _abilities(self) -> frozenset[Ability]:
        return frozenset(ability for expert in self._routed.experts.values() for ability in expert.abilities)

    def route(self, prompt: str | Sequence[ChatMessage], **kwargs: Any) -> RouteDecision:
        """The decision for a call with this prompt or these messages; no expert is called.

        Args:
            prompt: A prompt as for `complete`, or messages as for `chat`.
            kwargs: Per-call keywords such as `model`, `exclude` and `tools`.
        """
        messages = prompt_to_messages(prompt) if isinstance(prompt, str) else prompt
        return self._routed.decide(self._call(messages, kwargs).query)

    def health(self) -> Health:
        """The load, cool-down, latency and counts of every replica; `print` shows them as a table."""
        return self._routed.health()

    def _tool_keywords(self, tools: Sequence[BaseTool], options: dict[str, Any]) -> dict[str, Any]:
        # The tools stay LlamaIndex's: the LLM of the chosen expert converts them for its own API.
        return {"tools": tools, **options}

    def _call(self, messages: Sequence[ChatMessage], keywords: Mapping[str, Any], *, sync: bool = False) -> RoutedCall:
        tool_options = {name: keywords[name] for name in _TOOL_OPTIONS if name in keywords}
        choice = default_choice(tool_options.get("tool_choice"), tool_options.get("tool_required", False))
        keywords = {name: value for name, value in keywords.items() if name not in _TOOL_OPTIONS}
        options = super()._call(messages, {**keywords, "tool_choice": choice}).options
        question = messages[-1].additional_kwargs.get(ROUTING_TEXT) if messages else None
        query = self._routed.query(messages, turns_of(messages), options, source=self.routing_text, question=question)
        return RoutedCall(
            [_without_question(message) for message in messages], options, tool_options, sync, query=query
        )

    # --- answering ---

    async def _answer(self, call: Call) -> ChatResponse:
        assert isinstance(call, RoutedCall)
        decision = await self._decide(call.query)
        served = await self._routed.call(
            decision, partial(self._ask, call), session=call.query.session, deadline=call.options.timeout
        )
        return _with_routing(served.value, _served_routing(served))

    async def _answer_stream(self, call: Call) -> AsyncGenerator[ChatResponse, None]:
        assert isinstance(call, RoutedCall)
        decision = await self._decide(call.query)
        stream = await self._routed.open_stream(
            decision, partial(self._ask_stream, call), session=call.query.session, deadline=call.options.timeout
        )
        routing = _served_routing(stream)
        async with aclosing(stream):
            async for response in stream:
                yield _with_routing(response, routing)

    async def _decide(self, query: RouteQuery) -> RouteDecision:
        if self.rate_limiter is not None:
            await self.rate_limiter.async_acquire()
        decision = await self._routed.adecide(query)
        emit(decision)
        return decision

    async def _ask(self, call: Call, target: Target) -> ChatResponse:
        return await ask_model(self._model(target), call, target)

    def _ask_stream(self, call: Call, target: Target) -> AsyncGenerator[ChatResponse, None]:
        return stream_model(self._model(target), call, target)

    def _model(self, target: Target) -> LLM:
        model = self._routed.model(target)
        if self.callback_manager.handlers:
            model.callback_manager = self.callback_manager  # as LlamaIndex's engines do with their LLM
        return model


def emit(decision: RouteDecision) -> None:
    """Report a decision to LlamaIndex's instrumentation."""
    dispatcher.event(RouteDecisionEvent(**decision.to_json()))


def _served_routing(served: Served[ChatResponse] | ServedStream[ChatResponse]) -> dict[str, Any]:
    """The routing block of an answer, which is also reported to LlamaIndex's instrumentation."""
    routing = served.routing
    dispatcher.event(RouteServedEvent(expert=served.expert, failed_attempts=routing["failed_attempts"]))
    return routing


def _with_routing(response: ChatResponse, routing: dict[str, Any]) -> ChatResponse:
    return response.model_copy(update={"additional_kwargs": {**response.additional_kwargs, "routing": routing}})


def _without_question(message: ChatMessage) -> ChatMessage:
    if ROUTING_TEXT not in message.additional_kwargs:
        return message
    kept = {key: value for key, value in message.additional_kwargs.items() if key != ROUTING_TEXT}
    return message.model_copy(update={"additional_kwargs": kept})

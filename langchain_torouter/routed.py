"""RoutedChatModel: a LangChain chat model that sends each call to the expert that a trained router ranks first."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Annotated, Any, Self

from langchain_core.language_models import LanguageModelInput as Input
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import get_config_list
from pydantic import Field, PrivateAttr, SkipValidation

from langchain_torouter.base import Call, ExpertChatModel, profile_of
from langchain_torouter.errors import langchain_errors
from langchain_torouter.messages import from_chunk, from_reply, turns_of
from langchain_torouter.models import FRAMEWORK, ask_model, stream_model
from torouter.chat import ChatChunk, ChatReply
from torouter.dispatch import DispatchHook, DispatchSettings, ServedStream, Target
from torouter.endpoints import Timeouts
from torouter.experts import Experts
from torouter.routing.decision import RouteDecision
from torouter.routing.policy import RoutingPolicy
from torouter.routing.routing_text import TextSource, given_routing_text
from torouter.runtime.endpoint import Endpoint
from torouter.runtime.framework_models import FrameworkExperts
from torouter.runtime.health import Health
from torouter.runtime.routed_experts import RouteQuery, RouterSource

Config = RunnableConfig | None
Configs = RunnableConfig | list[RunnableConfig] | None

_CONFIGURABLE = {
    "model": "expert",
    "exclude": "exclude",
    "routing_text": "routing_text",
    "policy": "policy",
    "session": "session",
}
"""Per-call keywords and their names in `config["configurable"]`."""
_TEXT = "__torouter_text"
"""Key of the text to route by in a batch's configs. LangChain copies no key of this form into a trace's metadata."""


class ChosenExpert(str):
    """The name of the chosen expert, with the decision that chose it.

    It is passed as the standard keyword `model`, so that the run, which LangChain opens before it generates, already
    names the expert. A plain string as `model` is the caller's own choice.
    """

    decision: RouteDecision
    session: str | None

    @classmethod
    def of(cls, decision: RouteDecision, session: str | None) -> Self:
        """The first of the decision's ranking."""
        choice = cls(decision.expert)
        choice.decision, choice.session = decision, session
        return choice


class RoutedChatModel(ExpertChatModel):
    """A chat model that sends each call to the expert that a trained router expects to answer it best.

    If that expert can't answer, the next one of this query's ranking is called, unless a token has arrived. An answer's
    `response_metadata["routing"]` holds the decision, the expert that answered and the failed attempts.

    Key init args:
        router: A trained router, its directory, or its id on the Hugging Face Hub.
        experts: Path of an experts.yaml, an `ExpertPool`, or a mapping from name to a url, an `Expert` or any LangChain
            chat model. The names must be those that the router was trained with.
        policy: Turns scores into a ranking; by default the highest score comes first.
        routing_text: The text that the router reads: "last_user" (the last human message, so that a tool loop stays
            with its expert), "conversation", or a function of the messages.
        temperature, max_tokens, stop, timeout: LangChain's standard parameters. `timeout` covers the whole call, with
            all experts tried.

    Per call, as keywords or in `config={"configurable": {...}}`:
        model (configurable: expert): The one expert that may answer.
        exclude: Experts that may not answer.
        routing_text: The text to route by, in place of the field's; `with torouter.routing_text(...)` around the call
            does the same. Give the question alone where a prompt joins documents and question in one message.
        policy: A policy for this call alone.
        session: Key of a conversation that stays with its expert unless another expert is much better.

    Instantiate and invoke:
        ```python
        from langchain_torouter import RoutedChatModel

        model = RoutedChatModel(
            router="my-router",
            experts={"code": "http://127.0.0.1:8080", "math": "http://127.0.0.1:8081"},
        )
        answer = model.invoke("Write a function that reverses a list.")
        answer.response_metadata["routing"]["expert"]
        ```

    Raises:
        ConfigurationError: Router and experts do not match, or an argument is invalid; the message names the fix.
        CheckpointError: The router can't be loaded.
    """

    router: Annotated[RouterSource, SkipValidation]
    """A trained router, its directory, or its Hub id."""
    experts: Annotated[Experts, SkipValidation]
    """The experts by name."""
    policy: RoutingPolicy = RoutingPolicy()
    """Turns scores into a ranking."""
    routing_text: TextSource | Callable[[Sequence[BaseMessage]], str] = "last_user"
    """The text that the router reads."""
    settings: DispatchSettings = DispatchSettings(rounds=3)
    """Deadline, cool-downs and limits of failover."""
    timeouts: Timeouts = Timeouts()
    """Limits of one request to one expert."""
    hooks: Sequence[DispatchHook] = Field(default=(), exclude=True, repr=False)
    """Observers of decisions, attempts and outcomes, such as `torouter.OpenTelemetryHook()`."""
    max_retries: int | None = Field(default=None, ge=0)
    """Further passes over the ranking after every expert has failed temporarily, each after a cool-down. It overrides
    `settings.rounds`, which counts the first pass too."""

    _routed: FrameworkExperts[BaseChatModel, Endpoint] = PrivateAttr()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Not in a validator: pydantic would wrap torouter's errors in its own.
        self._routed = FrameworkExperts.of(self, FRAMEWORK)
        if isinstance(self.experts, Mapping):
            self.experts = {**self._routed.experts, **self._routed.models}  # the user's own mapping may show a token

    @property
    def _llm_type(self) -> str:
        return "torouter-routed"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # The key of LangChain's answer cache, so that a retrained router or other experts do not return old answers.
        return {
            "router": self._routed.router.revision,
            "experts": self._routed.experts.fingerprint,
            "models": {name: model.dict() for name, model in self._routed.models.items()},
            "policy": repr(self.policy),
            **self._defaults(),
        }

    def _resolve_model_profile(self) -> ModelProfile | None:
        pool, _ = FRAMEWORK.split(self.experts)
        windows = [expert.context_window for expert in pool.values()]
        return profile_of(
            frozenset(ability for expert in pool.values() for ability in expert.abilities),
            None if None in windows else pool.smallest_window,
        )

    def route(self, input: Input, config: Config = None, **kwargs: Any) -> RouteDecision:
        """The decision for a call with this input; no expert is called.

        Args:
            input: As for `invoke`.
            config: As for `invoke`.
            kwargs: Per-call keywords such as `model`, `exclude` and `tools`.
        """
        with langchain_errors():
            return self._routed.decide(self._query(self._convert_input(input).to_messages(), config, kwargs))

    def health(self) -> Health:
        """The load, cool-down, latency and counts of every replica; `print` shows them as a table."""
        return self._routed.health()

    # --- deciding before LangChain opens the run ---

    def invoke(self, input: Input, config: Config = None, **kwargs: Any) -> AIMessage:
        prompt = self._convert_input(input)
        return super().invoke(prompt, config, **self._with_choice(prompt, config, kwargs))

    async def ainvoke(self, input: Input, config: Config = None, **kwargs: Any) -> AIMessage:
        prompt = self._convert_input(input)
        return await super().ainvoke(prompt, config, **await self._awith_choice(prompt, config, kwargs))

    def stream(self, input: Input, config: Config = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        # Decided now, since the first step may come after the caller's `with routing_text(...)` has ended.
        prompt = self._convert_input(input)
        return super().stream(prompt, config, **self._with_choice(prompt, config, kwargs))

    def astream(self, input: Input, config: Config = None, **kwargs: Any) -> AsyncIterator[AIMessageChunk]:
        if text := given_routing_text():
            kwargs.setdefault("routing_text", text)
        return self._decide_and_stream(self._convert_input(input), config, kwargs)

    async def _decide_and_stream(
        self, prompt: PromptValue, config: Config, kwargs: dict[str, Any]
    ) -> AsyncIterator[AIMessageChunk]:
        chunks = super().astream(prompt, config, **await self._awith_choice(prompt, config, kwargs))
        async with aclosing(chunks):  # type: ignore[type-var]  # it is an async generator
            async for chunk in chunks:
                yield chunk

    # `stream_events` calls these two for version "v3", which it offers no public method for.
    def _chat_model_stream_v3(self, input: Input, config: Config = None, **kwargs: Any) -> ChatModelStream:
        prompt = self._convert_input(input)
        return super()._chat_model_stream_v3(prompt, config, **self._with_choice(prompt, config, kwargs))

    async def _achat_model_stream_v3(self, input: Input, config: Config = None, **kwargs: Any) -> AsyncChatModelStream:
        prompt = self._convert_input(input)
        keywords = await self._awith_choice(prompt, config, kwargs)
        return await super()._achat_model_stream_v3(prompt, config, **keywords)

    def batch(self, inputs: list[Input], config: Configs = None, **kwargs: Any) -> list[AIMessage]:
        configs, texts = self._batch_configs(inputs, config, kwargs)
        self._routed.prefetch(texts)
        return super().batch(inputs, configs, **kwargs)

    async def abatch(self, inputs: list[Input], config: Configs = None, **kwargs: Any) -> list[AIMessage]:
        configs, texts = self._batch_configs(inputs, config, kwargs)
        await self._routed.aprefetch(texts)
        return await super().abatch(inputs, configs, **kwargs)

    def _batch_configs(
        self, inputs: Sequence[Input], config: Configs, kwargs: Mapping[str, Any]
    ) -> tuple[list[RunnableConfig], list[str]]:
        """A config for each input, which carries the text to route it by, and these texts."""
        configs, texts = get_config_list(config, len(inputs)) if inputs else [], []
        for prompt, prompt_config in zip(inputs, configs, strict=True):
            with suppress(Exception):  # its own call raises it
                query = self._query(self._convert_input(prompt).to_messages(), prompt_config, kwargs)
                prompt_config["configurable"] = {**prompt_config.get("configurable", {}), _TEXT: query.text}
                texts.append(query.text)
        return configs, texts

    def _with_choice(self, prompt: PromptValue, config: Config, kwargs: dict[str, Any]) -> dict[str, Any]:
        if isinstance(kwargs.get("model"), ChosenExpert):
            return kwargs
        with langchain_errors():
            query = self._query(prompt.to_messages(), config, kwargs)
            return {**kwargs, "model": ChosenExpert.of(self._routed.decide(query), query.session)}

    async def _awith_choice(self, prompt: PromptValue, config: Config, kwargs: dict[str, Any]) -> dict[str, Any]:
        if isinstance(kwargs.get("model"), ChosenExpert):
            return kwargs
        with langchain_errors():
            query = self._query(prompt.to_messages(), config, kwargs)
            return {**kwargs, "model": ChosenExpert.of(await self._routed.adecide(query), query.session)}

    def _query(self, messages: Sequence[BaseMessage], config: Config, kwargs: Mapping[str, Any]) -> RouteQuery:
        configurable = ensure_config(config).get("configurable", {})
        from_config = {keyword: configurable.get(key) for keyword, key in _CONFIGURABLE.items()}
        options = self._options({name: value for name, value in from_config.items() if value}, kwargs)
        question = configurable.get(_TEXT)
        return self._routed.query(messages, turns_of(messages), options, source=self.routing_text, question=question)

    # --- answering ---

    async def _answer(self, call: Call) -> ChatResult:
        choice = await self._choice(call)
        served = await self._routed.call(
            choice.decision, partial(self._ask, call), session=choice.session, deadline=call.options.timeout
        )
        result = from_reply(served.value) if isinstance(served.value, ChatReply) else served.value
        result.generations[0].message.response_metadata["routing"] = served.routing
        return result

    async def _answer_stream(self, call: Call) -> AsyncGenerator[ChatGenerationChunk, None]:
        with langchain_errors():
            choice = await self._choice(call)
            stream: ServedStream[ChatChunk | ChatGenerationChunk] = await self._routed.open_stream(
                choice.decision, partial(self._ask_stream, call), session=choice.session, deadline=call.options.timeout
            )
            served_model: str | None = self._routed.experts[stream.expert].served_model
            async with aclosing(stream):
                async for item in stream:
                    chunk: ChatGenerationChunk = from_chunk(item, served_model) if isinstance(item, ChatChunk) else item
                    if served_model is not None:
                        chunk.message.response_metadata["routing"] = stream.routing
                        served_model = None
                    yield chunk

    async def _choice(self, call: Call) -> ChosenExpert:
        """The choice made before the run, or a new one for `generate`, which makes none."""
        model = call.options.model
        if isinstance(model, ChosenExpert):
            return model
        query = self._routed.query(call.messages, turns_of(call.messages), call.options, source=self.routing_text)
        return ChosenExpert.of(await self._routed.adecide(query), query.session)

    async def _ask(self, call: Call, target: Target) -> ChatReply | ChatResult:
        model = self._routed.model(target)
        if isinstance(model, Endpoint):
            return await model.chat(call.request, seconds=target.seconds)
        return await ask_model(model, call, target.expert.name)

    def _ask_stream(
        self, call: Call, target: Target
    ) -> AsyncGenerator[ChatChunk, None] | AsyncGenerator[ChatGenerationChunk, None]:
        model = self._routed.model(target)
        if isinstance(model, Endpoint):
            return model.client.chat_stream(call.request, deadline=target.seconds)
        return stream_model(model, call, target.expert.name)

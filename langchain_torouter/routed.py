"""RoutedChatModel: a LangChain chat model whose every call goes to the expert that a trained router ranks first."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import get_config_list
from pydantic import Field, PrivateAttr

from langchain_torouter.base import Call, ExpertChatModel
from langchain_torouter.chat_tgi import profile_of
from langchain_torouter.errors import langchain_errors
from langchain_torouter.messages import (
    PROVIDER,
    answer_facts,
    conversation_text,
    from_chunk,
    from_reply,
    last_human_text,
)
from langchain_torouter.models import ask_model, expert_of, stream_model
from torouter.dispatch import DispatchHook, DispatchSettings, Target
from torouter.endpoints import Timeouts
from torouter.errors import ExpertError
from torouter.routing.decision import RouteDecision, routing_block
from torouter.routing.policy import RoutingPolicy
from torouter.routing.requirements import Requirements
from torouter.routing.routing_text import given_routing_text
from torouter.runtime.health import Health
from torouter.runtime.routed_experts import RoutedExperts, RouteQuery, pool_and_models

RoutingText = Literal["last_human", "conversation"] | Callable[[Sequence[BaseMessage]], str]


class ChosenExpert(str):
    """The name of a call's chosen expert that carries the whole decision.

    It travels as the standard keyword `model`, so that the run, which LangChain opens before it asks for the answer,
    already names the expert that serves; a plain string in that place is a caller's pin.
    """

    decision: RouteDecision
    session: str | None

    @classmethod
    def of(cls, decision: RouteDecision, session: str | None) -> Self:
        """The first of the decision's ranking."""
        chosen = cls(decision.expert)
        chosen.decision, chosen.session = decision, session
        return chosen


class RoutedChatModel(ExpertChatModel):
    """A chat model that asks, for each call, the expert that a trained router expects to answer it best.

    If that expert can't answer, the next one of this query's own ranking does, as long as no token has come.

    Key init args:
        router: A trained router, its directory, or its id on the Hugging Face Hub.
        experts: Path of an experts.yaml, an `ExpertPool`, or a mapping from name to a url, an `Expert` or any LangChain
            chat model. Names are those that the router was trained with.
        policy: How scores become a ranking; by default the best score goes first.
        routing_text: What the router reads: "last_human" (the text of the last human turn, so that a tool loop stays
            with its expert), "conversation", or a function of the messages.
        temperature, max_tokens, stop, timeout: the standard ones. `timeout` is one deadline over all experts tried.

    Per call, as keywords or in `config={"configurable": {...}}`:
        model (configurable: expert): the one expert that may answer.
        exclude: experts that may not.
        routing_text: the text to route by in place of the messages', as does `with torouter.routing_text(...)` around
            the call. Where a prompt puts documents and question into one human turn, let it be the question.
        policy: a policy for this call alone.
        session: key of a conversation that shall stay with its expert unless another one is much better.

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
        ConfigurationError: Router and experts do not fit, or an argument can't be used.
        CheckpointError: The router can't be loaded.
    """

    router: Any
    """Router, directory or Hub id."""
    experts: Any
    """The experts by name."""
    policy: RoutingPolicy = RoutingPolicy()
    """From scores to a ranking."""
    routing_text: RoutingText = "last_human"
    """What the router reads."""
    settings: DispatchSettings = DispatchSettings(rounds=3)
    """Deadline, cool-downs and limits of failover."""
    timeouts: Timeouts = Timeouts()
    """Limits of one request to one expert."""
    hooks: Sequence[DispatchHook] = Field(default=(), exclude=True, repr=False)
    """Observers of decisions, attempts and outcomes, such as `torouter.OpenTelemetryHook()`."""
    max_retries: int | None = Field(default=None, ge=0)
    """Further walks over the ranking once every expert has failed for a passing reason, each after a cool-down; the
    same as `settings.rounds` less one, over which it wins."""

    _routed: RoutedExperts = PrivateAttr()
    _models: dict[str, BaseChatModel] = PrivateAttr(default_factory=dict)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Not in a validator: pydantic would wrap our errors into its own.
        pool, self._models = pool_and_models(self.experts, BaseChatModel, expert_of)  # type: ignore[type-abstract]
        if isinstance(self.experts, Mapping):
            self.experts = {**pool, **self._models}  # a mapping of plain fields would show a token
        settings = self.settings
        if self.max_retries is not None:
            settings = replace(settings, rounds=self.max_retries + 1)
        self._routed = RoutedExperts(
            self.router, pool, policy=self.policy, settings=settings, timeouts=self.timeouts, hooks=self.hooks
        )

    @property
    def _llm_type(self) -> str:
        return "torouter-routed"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # Keys of LangChain's answer cache: a retrained router or other experts must not hit the old answers.
        return {
            "router": self._routed.router.revision,
            "experts": self._routed.experts.fingerprint,
            "models": {name: model.dict() for name, model in self._models.items()},
            "policy": repr(self.policy),
            **self._defaults(),
        }

    def _resolve_model_profile(self) -> ModelProfile | None:
        pool, _ = pool_and_models(self.experts, BaseChatModel, expert_of)  # type: ignore[type-abstract]
        windows = [expert.context_window for expert in pool.values()]
        return profile_of(
            frozenset(ability for expert in pool.values() for ability in expert.abilities),
            None if None in windows else min(window for window in windows if window is not None),
        )

    def route(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> RouteDecision:
        """The decision that a call with this input would get; no expert is asked.

        Args:
            input: What `invoke` takes.
            config: What `invoke` takes.
            kwargs: Per-call keywords such as `model`, `exclude` and `tools`.
        """
        messages = self._convert_input(input).to_messages()
        with langchain_errors():
            return self._routed.decide(self._query(messages, config, kwargs))

    def health(self) -> Health:
        """The state of every expert's replicas: load, cool-down, latency and counts. Printed it is a table."""
        return self._routed.health()

    # --- deciding before the run is opened ---

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        prompt = self._convert_input(input)
        return super().invoke(prompt, config, stop=stop, **self._chosen(prompt, config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        prompt = self._convert_input(input)
        return await super().ainvoke(prompt, config, stop=stop, **await self._achosen(prompt, config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        # Decided now and not at the first step, which may come after the caller's `with routing_text(...)` has ended.
        prompt = self._convert_input(input)
        return super().stream(prompt, config, stop=stop, **self._chosen(prompt, config, kwargs))

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        if given := given_routing_text():
            kwargs.setdefault("routing_text", given)
        return self._decided_and_streamed(self._convert_input(input), config, stop, kwargs)

    async def _decided_and_streamed(
        self, prompt: PromptValue, config: RunnableConfig | None, stop: list[str] | None, kwargs: dict[str, Any]
    ) -> AsyncIterator[AIMessageChunk]:
        chosen = await self._achosen(prompt, config, kwargs)
        chunks = super().astream(prompt, config, stop=stop, **chosen)
        async with aclosing(chunks):  # type: ignore[type-var]  # it is an async generator
            async for chunk in chunks:
                yield chunk

    # The public stream_events hands over to these two for version "v3"; a hook of its own it has not.
    def _chat_model_stream_v3(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> ChatModelStream:
        prompt = self._convert_input(input)
        return super()._chat_model_stream_v3(prompt, config, stop=stop, **self._chosen(prompt, config, kwargs))

    async def _achat_model_stream_v3(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncChatModelStream:
        prompt = self._convert_input(input)
        chosen = await self._achosen(prompt, config, kwargs)
        return await super()._achat_model_stream_v3(prompt, config, stop=stop, **chosen)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[AIMessage]:
        self._routed.prefetch(self._texts(inputs, config, kwargs))
        return super().batch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[AIMessage]:
        await self._routed.aprefetch(self._texts(inputs, config, kwargs))
        return await super().abatch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    def _chosen(self, prompt: PromptValue, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        if isinstance(kwargs.get("model"), ChosenExpert):
            return kwargs
        query = self._query(prompt.to_messages(), config, kwargs)
        with langchain_errors():
            return {**kwargs, "model": ChosenExpert.of(self._routed.decide(query), query.session)}

    async def _achosen(
        self, prompt: PromptValue, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        if isinstance(kwargs.get("model"), ChosenExpert):
            return kwargs
        query = self._query(prompt.to_messages(), config, kwargs)
        with langchain_errors():
            return {**kwargs, "model": ChosenExpert.of(await self._routed.adecide(query), query.session)}

    def _query(
        self, messages: Sequence[BaseMessage], config: RunnableConfig | None, kwargs: Mapping[str, Any]
    ) -> RouteQuery:
        configurable = ensure_config(config).get("configurable", {})
        response_format = kwargs.get("response_format") or {}
        inputs = [message.text for message in messages]
        return RouteQuery(
            text=self._text(messages, configurable, kwargs),
            requirements=Requirements(
                tools=bool(kwargs.get("tools")),
                json_schema=response_format.get("type") == "json_schema",
                images=any(_has_image(message) for message in messages),
                input_tokens=self._routed.input_tokens(inputs),
                output_tokens=kwargs.get("max_tokens") or self.max_tokens,
            ),
            pinned=kwargs.get("model") or configurable.get("expert"),
            exclude=kwargs.get("exclude") or configurable.get("exclude") or (),
            policy=kwargs.get("policy") or configurable.get("policy"),
            session=kwargs.get("session") or configurable.get("session"),
            inputs=inputs,
        )

    def _text(self, messages: Sequence[BaseMessage], configurable: Mapping[str, Any], kwargs: Mapping[str, Any]) -> str:
        given = kwargs.get("routing_text") or configurable.get("routing_text") or given_routing_text()
        if given:
            return str(given)
        if callable(self.routing_text):
            return self.routing_text(messages)
        return conversation_text(messages) if self.routing_text == "conversation" else last_human_text(messages)

    def _texts(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None,
        kwargs: Mapping[str, Any],
    ) -> list[str]:
        """What the router will read of a batch; of an input that fails here nothing, as its own call tells of it."""
        configs = get_config_list(config, len(inputs)) if inputs else []
        texts = []
        for one, its_config in zip(inputs, configs, strict=True):
            with suppress(Exception):
                messages = self._convert_input(one).to_messages()
                texts.append(self._text(messages, its_config.get("configurable", {}), kwargs))
        return texts

    # --- answering ---

    async def _answer(self, call: Call) -> ChatResult:
        chosen = await self._choice(call)
        served = await self._routed.call(
            chosen.decision,
            partial(self._ask, call),
            facts=lambda result: answer_facts(result.generations[0]),
            deadline=call.seconds(self.timeout),
        )
        message = served.value.generations[0].message
        message.response_metadata["routing"] = routing_block(chosen.decision, served.expert, served.attempts)
        self._answered(served.expert, getattr(message, "usage_metadata", None), chosen.session)
        return served.value

    async def _answer_stream(self, call: Call) -> AsyncGenerator[ChatGenerationChunk, None]:
        chosen = await self._choice(call)
        stream = await self._routed.open_stream(
            chosen.decision,
            partial(self._ask_stream, call),
            facts=answer_facts,
            deadline=call.seconds(self.timeout),
        )
        usage: UsageMetadata | None = None
        given: list[str] = []
        routing: dict[str, Any] | None = routing_block(chosen.decision, stream.expert, stream.attempts)
        try:
            async with aclosing(stream):
                async for chunk in stream:
                    if routing is not None:
                        chunk.message.response_metadata["routing"] = routing
                        routing = None
                    usage = getattr(chunk.message, "usage_metadata", None) or usage
                    given.append(chunk.text)
                    yield chunk
        except ExpertError as error:
            error.partial_text = error.partial_text or "".join(given)  # a chat model of the user's does not say it
            raise
        self._answered(stream.expert, usage, chosen.session)

    async def _choice(self, call: Call) -> ChosenExpert:
        """What was decided before the run, or now for `generate`, which comes here without."""
        model = call.keywords.get("model")
        if isinstance(model, ChosenExpert):
            return model
        query = self._query(call.messages, None, call.keywords)
        return ChosenExpert.of(await self._routed.adecide(query), query.session)

    def _answered(self, expert: str, usage: UsageMetadata | None, session: str | None) -> None:
        self._routed.answered(expert, output_tokens=usage["output_tokens"] if usage else None, session=session)

    async def _ask(self, call: Call, target: Target) -> ChatResult:
        expert = target.expert
        model = self._models.get(expert.name)
        if model is not None:
            return await ask_model(model, call, expert.name, self._defaults())
        reply = await self._routed.client(target).chat(call.request(self._defaults()), deadline=target.seconds)
        return from_reply(reply, model_name=reply.model or expert.served_model, extra={})

    async def _ask_stream(self, call: Call, target: Target) -> AsyncGenerator[ChatGenerationChunk, None]:
        expert = target.expert
        model = self._models.get(expert.name)
        if model is not None:
            async with aclosing(stream_model(model, call, expert.name, self._defaults())) as own:
                async for piece in own:
                    yield piece
            return
        chunks = self._routed.client(target).chat_stream(call.request(self._defaults()), deadline=target.seconds)
        async with aclosing(chunks):
            metadata: dict[str, Any] = {}
            async for chunk in chunks:
                if not metadata:
                    metadata = {"model_name": chunk.model or expert.served_model, "model_provider": PROVIDER}
                    yield from_chunk(chunk, metadata)
                else:
                    yield from_chunk(chunk, {})


def _has_image(message: BaseMessage) -> bool:
    return not isinstance(message.content, str) and any(
        isinstance(block, Mapping) and block.get("type") in ("image", "image_url") for block in message.content
    )

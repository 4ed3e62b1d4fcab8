"""Endpoint: calls one expert at one of its urls, and retries after temporary failures."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol, Self

from torouter.chat import ChatChunk, ChatReply, ChatRequest
from torouter.dispatch import StartedStream
from torouter.endpoints import TGIClient, Timeouts, client_for
from torouter.endpoints.request import default_max_tokens
from torouter.experts import Ability, Api, Expert
from torouter.runtime.retry import Retry
from torouter.secrets import SupportsSecret


class EndpointFields(Protocol):
    """The fields that each framework's single-endpoint model has; `model` is an adapter or a served model."""

    @property
    def base_url(self) -> str: ...
    @property
    def model(self) -> str | None: ...
    @property
    def api(self) -> Api: ...
    @property
    def api_key(self) -> SupportsSecret | None: ...
    @property
    def abilities(self) -> Collection[Ability]: ...
    @property
    def context_window(self) -> int | None: ...
    @property
    def timeouts(self) -> Timeouts: ...
    @property
    def max_retries(self) -> int: ...


class Endpoint:
    """Calls one expert at one url.

    Args:
        expert: The expert, with its token, prefix and parameters.
        url: Which of its urls to call, by default the first.
        timeouts: Limits of one request.
        retry: How a request is retried after a temporary failure; by default not at all.

    Raises:
        ConfigurationError: The expert has no such url.
        MissingExtraError: The expert's client is a package that is not installed.
    """

    def __init__(
        self,
        expert: Expert,
        *,
        url: str | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry = Retry(retries=0),
    ) -> None:
        self.client: TGIClient = client_for(expert, url=url, timeouts=timeouts)
        self._retry = retry

    @classmethod
    def of(cls, model: EndpointFields, *, name: str, api_key_env: str | None = None) -> Self:
        """The endpoint that the fields of a framework's single-endpoint model describe.

        Raises:
            ConfigurationError: A field can't be used; the message names it and the fix.
        """
        expert = Expert(
            name=name,
            url=model.base_url,
            api=model.api,
            api_key=model.api_key or None,  # type: ignore[arg-type]  # an Expert takes a SecretStr and keeps a Secret
            api_key_env=api_key_env,
            abilities=frozenset(model.abilities),
            context_window=model.context_window,
        )
        retry = Retry(retries=model.max_retries)
        return cls(_serving(expert, model.model), timeouts=model.timeouts, retry=retry)

    def __repr__(self) -> str:
        return f"Endpoint({self.client!r})"

    @property
    def expert(self) -> Expert:
        """The expert that is called."""
        return self.client.expert

    def serving(self, model: str | None) -> Endpoint:
        """The same endpoint with another adapter or served model; itself where `model` is None or its own."""
        expert = self.expert
        if model is None or model == (expert.model if expert.api == "openai" else expert.adapter):
            return self
        client = self.client
        return Endpoint(_serving(expert, model), url=client.url, timeouts=client.timeouts, retry=self._retry)

    async def chat(self, request: ChatRequest, *, seconds: float | None = None) -> ChatReply:
        """The whole answer, within `seconds`; its `model` is always set.

        Raises:
            ExpertError: The expert can't answer, and the retries have failed too.
        """
        reply = await self._retry(lambda: self.client.chat(request, deadline=seconds), seconds=seconds)
        return reply if reply.model else replace(reply, model=self.expert.served_model)

    async def open_stream(self, request: ChatRequest, *, seconds: float | None = None) -> StartedStream[ChatChunk]:
        """The answer as it arrives. Failures before its first chunk are retried, later ones are not.

        Raises:
            ExpertError: The expert does not begin to answer, and the retries have failed too.
        """
        return await self._retry(
            lambda: StartedStream.of(self.client.chat_stream(request, deadline=seconds)), seconds=seconds
        )


def longest_answer(expert: Expert) -> int:
    """Most tokens of an expert's answer to a call without `max_tokens`."""
    return int(expert.parameters.get("max_tokens") or default_max_tokens(expert))


def _serving(expert: Expert, model: str | None) -> Expert:
    return replace(expert, model=model) if expert.api == "openai" else replace(expert, adapter=model)

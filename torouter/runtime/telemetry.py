"""OpenTelemetryHook: records a span for each routed call, a child span for each attempt, and two histograms.

Names follow the GenAI semantic conventions (opentelemetry.io/docs/specs/semconv/gen-ai, still in development); names
that these lack begin with `torouter.`. Prompts and answers are never recorded: no hook receives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from torouter.dispatch import AnswerFacts, AttemptBegan, AttemptEnded, CallBegan, CallEnded, DispatchEvent
from torouter.errors import MissingExtraError
from torouter.version import __version__

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

# The bucket boundaries of the conventions.
_SECONDS = [0.01 * 2**n for n in range(14)]
_TOKENS = [4**n for n in range(14)]
_COMMON = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "torouter"}


@dataclass(slots=True)
class _OpenCall:
    """A call that has not ended, and the facts of its answer so far."""

    span: Span
    expert: str
    attempts: dict[int, Span] = field(default_factory=dict)
    answered: bool = False
    server: dict[str, str | int] = field(default_factory=dict)
    facts: AnswerFacts = field(default_factory=AnswerFacts)


class OpenTelemetryHook:
    """Records each call as OpenTelemetry spans and metrics.

    Pass it to `RoutedChatModel(hooks=[...])`, `RoutedLLM(hooks=[...])` or a `Dispatcher`. A call's span is a child of
    the span that is current where the call is made. Its attributes:

    - `gen_ai.request.model`: the chosen expert's name; `gen_ai.response.model` and `gen_ai.usage.*`: what the answer
      states. Only this span carries the usage, so that sums over spans count it once.
    - `torouter.ranking` and `torouter.reason`: the decision; `torouter.expert`: the expert that answered;
      `torouter.failed_attempts`: their number; `error.type`: what ended the call, unless it was answered or its stream
      was closed early.

    Attributes of an attempt's span: `torouter.expert`, `torouter.attempt` (from 1), `gen_ai.request.model` (what the
    expert should serve), `gen_ai.response.model`, `server.address`, `server.port` and `error.type`.

    `gen_ai.client.operation.duration` (seconds) and `gen_ai.client.token.usage` are recorded once for each call.

    Args:
        tracer_provider: Receives the spans; by default the application's global provider.
        meter_provider: Receives the metrics; by default the application's global provider.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        try:
            from opentelemetry import metrics, trace
        except ImportError:
            raise MissingExtraError("pip install 'torouter[otel]'") from None
        self._trace = trace
        self._tracer = trace.get_tracer("torouter", __version__, tracer_provider)
        meter = metrics.get_meter("torouter", __version__, meter_provider)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._usage = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._open: dict[int, _OpenCall] = {}

    def __call__(self, event: DispatchEvent, /) -> None:
        if isinstance(event, CallBegan):
            self._call_began(event)
        elif (call := self._open.get(event.call)) is None:
            return
        elif isinstance(event, AttemptBegan):
            self._attempt_began(call, event)
        elif isinstance(event, AttemptEnded):
            self._attempt_ended(call, event)
        else:
            del self._open[event.call]
            self._call_ended(call, event)

    def _call_began(self, event: CallBegan) -> None:
        decision = event.decision
        attributes: dict[str, Any] = {
            **_COMMON,
            "gen_ai.request.model": decision.expert,
            "torouter.ranking": decision.ranking,
            "torouter.reason": decision.reason,
            "torouter.streamed": event.streamed,
        }
        span = self._tracer.start_span(f"chat {decision.expert}", attributes=attributes)
        self._open[event.call] = _OpenCall(span, decision.expert)

    def _attempt_began(self, call: _OpenCall, event: AttemptBegan) -> None:
        call.attempts[event.number] = self._tracer.start_span(
            f"chat {event.model}",
            context=self._trace.set_span_in_context(call.span),
            kind=self._trace.SpanKind.CLIENT,
            attributes={
                **_COMMON,
                **_server(event.url),
                "gen_ai.request.model": event.model,
                "torouter.expert": event.expert,
                "torouter.attempt": event.number,
            },
        )

    def _attempt_ended(self, call: _OpenCall, event: AttemptEnded) -> None:
        if not call.answered:  # else it is the slower attempt of a hedged call
            call.facts, call.server, call.answered = event.facts, _server(event.url), event.error is None
        if (span := call.attempts.pop(event.number, None)) is not None:
            self._end(span, event.error, _model(event.facts))

    def _call_ended(self, call: _OpenCall, event: CallEnded) -> None:
        response_model = _model(call.facts)
        tokens = {"input": call.facts.input_tokens, "output": call.facts.output_tokens}
        usage = {f"gen_ai.usage.{kind}_tokens": count for kind, count in tokens.items() if count is not None}
        attributes: dict[str, Any] = {**response_model, **usage, "torouter.failed_attempts": len(event.attempts)}
        if event.expert is not None:
            attributes["torouter.expert"] = event.expert
        self._end(call.span, event.error, attributes)
        common = {**_COMMON, **call.server, **response_model, "gen_ai.request.model": call.expert}
        self._duration.record(event.milliseconds / 1000, {**common, **_error_type(event.error)})
        for kind, count in tokens.items():
            if count is not None:
                self._usage.record(count, {**common, "gen_ai.token.type": kind})

    def _end(self, span: Span, error: str | None, attributes: Mapping[str, Any]) -> None:
        error_type = _error_type(error)
        span.set_attributes({**attributes, **error_type})
        if error_type:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()


def _error_type(error: str | None) -> dict[str, str]:
    # Closing a stream early is the caller's choice and no error.
    return {} if error in (None, "GeneratorExit") else {"error.type": str(error)}


def _model(facts: AnswerFacts) -> dict[str, str]:
    return {} if facts.model is None else {"gen_ai.response.model": facts.model}


def _server(url: str) -> dict[str, str | int]:
    parts = urlsplit(url)
    if not parts.hostname:
        return {}
    return {"server.address": parts.hostname, "server.port": parts.port or (443 if parts.scheme == "https" else 80)}

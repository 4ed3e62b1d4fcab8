"""RoutingPolicy: scores, prices, seconds and abilities in, one ranking of the experts out."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import yaml

from torouter.errors import ConfigurationError, ContextLengthError
from torouter.experts import Ability, Expert, ExpertPool
from torouter.routing.decision import RouteDecision
from torouter.routing.needs import Estimate, Needs, expected_price


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RoutingPolicy:
    """How the experts of one query are ordered. A value: frozen, comparable, printed with what is not default.

    Each usable expert gets

        value = score - price_weight * price - latency_weight * seconds
                + edge_threshold (if it has the `edge` tag) + switch_margin (if it served the session's last query)

    and the ranking is by value, the highest first; `default_expert` is put before all where the router is not sure.
    Experts that the router has no score for come last, in the pool's order: nobody knows what they are worth, but they
    are better than no answer.

    Raises:
        ConfigurationError: A field has a value that can't work; the message names field, value and fix.
    """

    price_weight: float = 0.0
    """Lambda: score points that one USD per 1,000 queries is worth. With scores from 0 to 1, 0.05 means that an expert
    that costs 1 USD more per 1,000 queries must be right on 5 % more of them. A price nobody states counts as 0."""
    latency_weight: float = 0.0
    """Mu: score points that one second is worth. Seconds nobody knows count as 0, so that they become known."""
    max_price: float | None = None
    """No expert whose expected price for this query is higher is asked; USD per 1,000 queries (10: a cent each)."""
    max_seconds: float | None = None
    """No expert that is expected to take longer is asked; seconds."""
    edge: str | None = None
    """Tag of the experts that are asked first as long as nobody else is expected to be much better."""
    edge_threshold: float = 0.0
    """Score points that another expert must be better by before it is asked instead of an edge expert. Below zero: that
    it may be worse by. `torouter.routing.calibration.calibrate` chooses it from outcomes, and `price_weight` too."""
    default_expert: str | None = None
    """The expert that is asked first where the router is not sure."""
    min_confidence: float | None = None
    """The router is not sure where its highest score for a usable expert is below this."""
    switch_margin: float = 0.1
    """Score points that another expert must be better by before a session changes its expert."""
    exclude: frozenset[str] = frozenset()
    """Names of experts that are never asked."""

    def __post_init__(self) -> None:
        for name in ("price_weight", "latency_weight", "switch_margin"):
            self._check_number(name, getattr(self, name))
        self._check_number("edge_threshold", self.edge_threshold, least=-math.inf)
        for name in ("max_price", "max_seconds", "min_confidence"):
            if getattr(self, name) is not None:
                self._check_number(name, getattr(self, name))
        for name in ("edge", "default_expert"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise _wrong(name, value, "give a non-empty string, or leave it out")
        if (self.default_expert is None) != (self.min_confidence is None):
            raise _wrong("min_confidence", self.min_confidence, "give default_expert and min_confidence together")
        if self.edge is None and self.edge_threshold:
            raise _wrong("edge_threshold", self.edge_threshold, "say with `edge` which tag the edge experts have")
        if isinstance(self.exclude, str) or not isinstance(self.exclude, Iterable):
            raise _wrong("exclude", self.exclude, "give a list of experts' names")
        object.__setattr__(self, "exclude", frozenset(self.exclude))

    def decide(
        self,
        scores: Mapping[str, float],
        experts: ExpertPool,
        *,
        needs: Needs = Needs(),
        pinned: str | None = None,
        exclude: Collection[str] = (),
        previous: str | None = None,
        estimates: Mapping[str, Estimate] | None = None,
    ) -> RouteDecision:
        """Rank the experts for one query.

        Args:
            scores: The router's score by expert, higher is better. Names that the pool has not are left alone.
            experts: The experts that can be asked.
            needs: What the request asks of an expert; those that can't serve it are left out of the ranking.
            pinned: Ask this expert and no other. Weights and ceilings don't count then, abilities and window do.
            exclude: Names that this call must not use, added to the policy's own.
            previous: The expert that served the session's last query.
            estimates: Usual output tokens and seconds by expert.

        Raises:
            ContextLengthError: An expert could serve the request, but it fits into no such expert's window.
            ConfigurationError: No expert can serve the request, or a name is unknown; the message says why for each.
        """
        if scores and scores.keys().isdisjoint(experts.names):
            msg = f"the router scores {', '.join(scores)}, but the experts are {', '.join(experts.names)}: "
            raise ConfigurationError(msg + "give the experts the names that the router was trained with")
        estimates = estimates or {}
        barred = self.exclude.union(exclude)
        for name in barred if self.default_expert is None else barred.union((self.default_expert,)):
            experts[name]  # an unknown name is a mistake, not a wish that can be ignored
        abilities = needs.abilities
        weighs = self._weighs
        refused: dict[str, _Refusal] = {}
        values: dict[str, float] = {}
        for name in experts if pinned is None else (pinned,):
            expert = experts[name]
            price = seconds = 0.0
            if weighs:
                estimate = estimates.get(name, _UNKNOWN)
                price = expected_price(expert, needs, estimate.output_tokens)
                seconds = estimate.seconds or 0.0
            why = _refusal(expert, name in barred, abilities, needs.window(name))
            if why is None and pinned is None:
                why = self._over_ceiling(price, seconds)
            if why is not None:
                refused[name] = why
                continue
            value = scores.get(name, -math.inf) - self.price_weight * price - self.latency_weight * seconds
            if self.edge in expert.tags:
                value += self.edge_threshold
            if name == previous:
                value += self.switch_margin
            values[name] = value
        if not values:
            raise _nobody_left(refused)
        if pinned is not None:
            return RouteDecision(ranking=(pinned,), scores=dict(scores), reason="pinned")
        return self._decision(values, scores, experts, previous)

    def _decision(
        self, values: Mapping[str, float], scores: Mapping[str, float], experts: ExpertPool, previous: str | None
    ) -> RouteDecision:
        # Edge experts win ties, and sorting keeps the pool's order among equals.
        ranking = sorted(values, key=lambda name: (values[name], self.edge in experts[name].tags), reverse=True)
        first = ranking[0]
        known = [name for name in experts if name in scores]
        best = max(known, key=scores.__getitem__, default=first)
        confidence = max((scores[name] for name in known if name in values), default=-math.inf)
        default = self.default_expert
        if default is not None and confidence < cast("float", self.min_confidence) and default in values:
            ranking.remove(default)
            ranking.insert(0, default)
            reason = "default"
        elif first == best:
            reason = "router"
        elif best not in values:
            reason = "filter"
        elif first == previous:
            reason = "session"
        elif self.edge in experts[first].tags:
            reason = "edge"
        else:
            reason = "trade-off"
        return RouteDecision(ranking=tuple(ranking), scores=dict(scores), reason=reason)

    def check(self, experts: ExpertPool) -> None:
        """Find names and tags that no expert has, before the first query does.

        Raises:
            ConfigurationError: `default_expert`, a name in `exclude` or the `edge` tag fits no expert.
        """
        for name in (*sorted(self.exclude), *([self.default_expert] if self.default_expert else ())):
            experts[name]
        if self.edge is not None and not any(self.edge in expert.tags for expert in experts.values()):
            raise _wrong("edge", self.edge, "give at least one expert this tag")

    def replace(self, **changes: Any) -> RoutingPolicy:
        """A copy with other values in some fields."""
        return replace(self, **_known_fields(changes))

    def __or__(self, other: RoutingPolicy) -> RoutingPolicy:
        """This policy with `other`'s fields where they differ from the default; exclusions add up."""
        if not isinstance(other, RoutingPolicy):
            return NotImplemented
        changes = other.to_mapping()
        return self.replace(**{**changes, "exclude": self.exclude | other.exclude})

    def __repr__(self) -> str:
        return f"RoutingPolicy({', '.join(f'{name}={value!r}' for name, value in self.to_mapping().items())})"

    def to_mapping(self) -> dict[str, Any]:
        """The fields that differ from the default, as plain data for YAML and JSON."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if "exclude" in changed:
            changed["exclude"] = sorted(changed["exclude"])
        return changed

    @classmethod
    def from_mapping(cls, entry: Mapping[str, Any]) -> RoutingPolicy:
        """Build a policy from plain data, such as `to_mapping` gives.

        Raises:
            ConfigurationError: An unknown key or a wrong value.
        """
        return cls(**_known_fields(entry))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> RoutingPolicy:
        """Read a YAML file that is one mapping of fields.

        Raises:
            ConfigurationError: The file can't be read or is wrong; the message names file, field and value.
        """
        file = Path(path)
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            msg = f"{file}: can't be read as YAML: {error}"
            raise ConfigurationError(msg) from error
        if not isinstance(document, Mapping):
            msg = f"{file}: the file must hold one mapping of RoutingPolicy's fields, such as price_weight: 0.05"
            raise ConfigurationError(msg)
        try:
            return cls.from_mapping(document)
        except ConfigurationError as error:
            msg = f"{file}: {error}"
            raise ConfigurationError(msg) from None

    @property
    def _weighs(self) -> bool:
        """Whether anything depends on prices and seconds."""
        ceiling = self.max_price is not None or self.max_seconds is not None
        return ceiling or self.price_weight > 0 or self.latency_weight > 0

    def _over_ceiling(self, price: float, seconds: float) -> _Refusal | None:
        if self.max_price is not None and price > self.max_price:
            return _Refusal(f"{price:.3g} USD per 1,000 queries is over max_price={self.max_price:g}")
        if self.max_seconds is not None and seconds > self.max_seconds:
            return _Refusal(f"{seconds:.3g} s is over max_seconds={self.max_seconds:g}")
        return None

    def _check_number(self, name: str, value: object, least: float = 0.0) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
            raise _wrong(name, value, "give a number" if least < 0 else "give a number, zero or more")


_UNKNOWN = Estimate()


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why an expert is left out, as a phrase."""

    why: str
    too_long: bool = False


def _refusal(expert: Expert, barred: bool, abilities: frozenset[Ability], window: int | None) -> _Refusal | None:
    if barred:
        return _Refusal("it is excluded")
    if not abilities <= expert.abilities:
        return _Refusal(f"it can't do {', '.join(sorted(abilities - expert.abilities))}")
    if window is not None and expert.context_window is not None and window > expert.context_window:
        return _Refusal(f"its window is {expert.context_window} tokens, of {window} needed", too_long=True)
    return None


def _nobody_left(refused: Mapping[str, _Refusal]) -> ConfigurationError | ContextLengthError:
    reasons = "; ".join(f"{name!r}: {refusal.why}" for name, refusal in refused.items())
    if any(refusal.too_long for refusal in refused.values()):
        return ContextLengthError(f"no expert can take so many tokens (input and max_tokens): {reasons}")
    return ConfigurationError(f"no expert can serve this request: {reasons}")


def _known_fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    known = [f.name for f in fields(RoutingPolicy)]
    for key in entry:
        if key not in known:
            msg = f"RoutingPolicy has no field {key!r}; known fields are {', '.join(known)}"
            raise ConfigurationError(msg)
    return dict(entry)


def _wrong(name: str, value: object, fix: str) -> ConfigurationError:
    return ConfigurationError(f"RoutingPolicy: {name}={value!r} can't be used: {fix}")

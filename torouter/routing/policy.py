"""`RoutingPolicy`: ranks the experts for one query by score, price, seconds and abilities."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from torouter.errors import ConfigurationError, ContextLengthError
from torouter.experts import Ability, Expert, ExpertPool
from torouter.routing.decision import RouteDecision
from torouter.routing.requirements import Estimate, Estimates, ExpectedPrices, Requirements
from torouter.routing.scores import Scores


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RoutingPolicy:
    """How the experts for one query are ranked. A frozen, comparable value; its repr shows what is not default.

    Each usable expert gets

        value = score - price_weight * price - latency_weight * seconds
                + edge_threshold (if it has the `edge` tag) + switch_margin (if it served the session's last query)

    and the ranking is by value, the highest first; `default_expert` comes before all where the router is not sure.
    Experts without a score come last, in the pool's order: their quality is unknown, but any answer beats none.

    Raises:
        ConfigurationError: A field has an invalid value; the message names field, value and fix.
    """

    price_weight: float = 0.0
    """Lambda: score points that one USD per 1,000 queries is worth. With scores from 0 to 1, 0.05 means that an expert
    that costs 1 USD more per 1,000 queries must be right on 5 % more of them. An unknown price counts as 0."""
    latency_weight: float = 0.0
    """Mu: score points that one second is worth. Unknown seconds count as 0, so that a new expert gets measured."""
    max_price: float | None = None
    """Experts with a higher expected price for this query are left out; USD per 1,000 queries (10: a cent each)."""
    max_seconds: float | None = None
    """Experts that are expected to take more seconds are left out."""
    edge: str | None = None
    """Tag of the experts that are asked first unless another one is expected to be much better."""
    edge_threshold: float = 0.0
    """Score points by which another expert must be better to be asked instead of an edge expert; below zero, points by
    which it may be worse. `torouter.routing.calibration.calibrate` chooses this or `price_weight` from outcomes."""
    default_expert: str | None = None
    """The expert that is asked first where the router is not sure; needs `min_confidence`."""
    min_confidence: float | None = None
    """The router counts as not sure if its highest score for a usable expert is below this."""
    switch_margin: float = 0.1
    """Score points by which another expert must be better before a session changes its expert."""
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
            raise _wrong("edge_threshold", self.edge_threshold, "give `edge`, the tag of the edge experts, too")
        if isinstance(self.exclude, str) or not isinstance(self.exclude, Iterable):
            raise _wrong("exclude", self.exclude, "give a list of experts' names")
        object.__setattr__(self, "exclude", frozenset(self.exclude))

    def decide(
        self,
        scores: Mapping[str, float],
        experts: ExpertPool,
        *,
        requirements: Requirements = Requirements(),
        pinned: str | None = None,
        exclude: Collection[str] = (),
        previous: str | None = None,
        estimates: Mapping[str, Estimate] | None = None,
    ) -> RouteDecision:
        """Rank the experts for one query.

        Args:
            scores: The router's score by expert, higher is better. Names that the pool lacks are ignored.
            experts: The experts that can be asked.
            requirements: What the request needs; experts that can't serve it are left out of the ranking.
            pinned: Ask only this expert. Weights and ceilings are ignored then, abilities and context window are not.
            exclude: Names that this call must not use, in addition to the policy's own.
            previous: The expert that served the session's last query.
            estimates: Usual output tokens and seconds by expert.

        Raises:
            ContextLengthError: The request fits into the context window of no expert that could serve it.
            ConfigurationError: No expert can serve the request, for the reasons that the message gives for each; or the
                router scores none of the experts.
            UnknownExpertError: The pool has no expert of a given name.
        """
        names = experts.names
        if scores and not any(name in scores for name in names):
            msg = f"the router scores {', '.join(scores)}, but the experts are {', '.join(names)}: "
            raise ConfigurationError(msg + "give the experts the names that the router was trained with")
        barred = self.exclude.union(exclude)
        for name in barred if self.default_expert is None else barred.union((self.default_expert,)):
            experts[name]  # an unknown name is an error
        usual = Estimates.of(estimates or {}, names)
        prices = ExpectedPrices(experts, requirements, usual)
        given_scores = scores if isinstance(scores, Scores) else dict(scores)
        if pinned is not None:
            refusal = _refusal(experts[pinned], pinned in barred, requirements.abilities, requirements.window(pinned))
            if refusal is not None:
                raise _no_expert_left({pinned: refusal})
            return RouteDecision(ranking=(pinned,), scores=given_scores, reason="pinned", prices=prices)
        refused = {**self._over_ceiling(prices, usual), **_unfit(experts, barred, requirements)}
        if len(refused) == len(names):
            raise _no_expert_left({name: refused[name] for name in names})
        row = Scores.of(scores, names).row
        order, changed = self._order(row, experts, prices, usual, previous)
        if refused:
            order = order[[names[position] not in refused for position in order]]
        ranking = list(map(names.__getitem__, order.tolist()))
        default, reason = self.default_expert, "router"
        if default is not None and default in ranking and row[order].max() < cast("float", self.min_confidence):
            ranking.remove(default)
            ranking.insert(0, default)
            reason = "default"
        elif (changed or refused) and scores and names[row.argmax()] != ranking[0]:
            reason = self._reason(experts[ranking[0]], names[row.argmax()] in refused, previous)
        return RouteDecision(ranking=tuple(ranking), scores=given_scores, reason=reason, prices=prices)

    def _order(
        self,
        row: NDArray[np.float64],
        experts: ExpertPool,
        prices: ExpectedPrices,
        usual: Estimates,
        previous: str | None,
    ) -> tuple[NDArray[np.intp], bool]:
        """Positions of all experts by value, the highest first, and whether values differ from the scores."""
        values, is_edge = row, None
        if self.price_weight:
            values = values - self.price_weight * prices.of_all
        if self.latency_weight:
            values = values - self.latency_weight * np.where(np.isnan(usual.seconds), 0.0, usual.seconds)
        if self.edge is not None:
            is_edge = np.array([self.edge in expert.tags for expert in experts.values()])
            values = values + self.edge_threshold * is_edge
        if previous in experts:
            values = values.copy()
            values[experts.names.index(previous)] += self.switch_margin
        if is_edge is not None:  # edge experts win ties
            return np.lexsort((~is_edge, -values)), True
        # Sorting keeps the pool's order among equals.
        return np.argsort(-values, kind="stable"), values is not row

    def _reason(self, first: Expert, best_refused: bool, previous: str | None) -> str:
        """Why another expert than the best-scored one comes first."""
        if best_refused:
            return "filter"
        if first.name == previous:
            return "session"
        return "edge" if self.edge in first.tags else "trade-off"

    def check(self, experts: ExpertPool) -> None:
        """Refuse a policy with names or tags that no expert has, before the first query.

        Raises:
            ConfigurationError: `default_expert`, a name in `exclude` or the `edge` tag fits no expert.
        """
        for name in (*sorted(self.exclude), *([self.default_expert] if self.default_expert else ())):
            experts[name]
        if self.edge is not None and not any(self.edge in expert.tags for expert in experts.values()):
            raise _wrong("edge", self.edge, "give at least one expert this tag")

    def replace(self, **changes: Any) -> RoutingPolicy:
        """A copy with these fields changed."""
        return replace(self, **_known_fields(changes))

    def __or__(self, other: RoutingPolicy) -> RoutingPolicy:
        """This policy with the fields of `other` that are not default; exclusions are joined."""
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

    def _over_ceiling(self, prices: ExpectedPrices, usual: Estimates) -> dict[str, _Refusal]:
        """The experts whose expected price or seconds are above the policy's ceilings."""
        over: dict[str, _Refusal] = {}
        if self.max_seconds is not None:
            for position in np.flatnonzero(usual.seconds > self.max_seconds).tolist():
                reason = f"{usual.seconds[position]:.3g} s is over max_seconds={self.max_seconds:g}"
                over[usual.names[position]] = _Refusal(reason)
        if self.max_price is not None:
            for position in np.flatnonzero(prices.of_all > self.max_price).tolist():
                reason = f"{prices.of_all[position]:.3g} USD per 1,000 queries is over max_price={self.max_price:g}"
                over[usual.names[position]] = _Refusal(reason)
        return over

    def _check_number(self, name: str, value: object, least: float = 0.0) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
            raise _wrong(name, value, "give a number" if least < 0 else "give a number, zero or more")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why an expert is left out."""

    reason: str
    too_long: bool = False


def _unfit(experts: ExpertPool, barred: Collection[str], requirements: Requirements) -> dict[str, _Refusal]:
    """The experts that are excluded or can't serve the request; usually the pool's own limits show that none is."""
    abilities = requirements.abilities
    longest = max((requirements.input_tokens or 0, *requirements.counted.values())) + requirements.reserved
    fits = experts.smallest_window is None or longest <= experts.smallest_window
    if fits and abilities <= experts.abilities and not barred:
        return {}
    refusals = (
        (name, _refusal(expert, name in barred, abilities, requirements.window(name)))
        for name, expert in experts.items()
    )
    return {name: refusal for name, refusal in refusals if refusal is not None}


def _refusal(expert: Expert, barred: bool, abilities: frozenset[Ability], window: int | None) -> _Refusal | None:
    if barred:
        return _Refusal("it is excluded")
    if not abilities <= expert.abilities:
        return _Refusal(f"it can't do {', '.join(sorted(abilities - expert.abilities))}")
    if window is not None and expert.context_window is not None and window > expert.context_window:
        return _Refusal(f"its window is {expert.context_window} tokens, {window} are needed", too_long=True)
    return None


def _no_expert_left(refused: Mapping[str, _Refusal]) -> ConfigurationError | ContextLengthError:
    reasons = "; ".join(f"{name!r}: {refusal.reason}" for name, refusal in refused.items())
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

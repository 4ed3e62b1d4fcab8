"""What a request needs from an expert, and the price and time that each expert is expected to take for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from torouter.experts import Ability, ExpertPool

ASSUMED_INPUT_TOKENS = 200
"""Length of an input that was not counted; used for prices only, never to decide whether an input fits."""
ASSUMED_OUTPUT_TOKENS = 250
"""Length of an answer while none was observed."""
_COUNTED_OUTPUT_TOKENS = 1024
"""The most that TGI's own check of the window counts of `max_tokens`. A server that counts more refuses once."""
_SAMPLE, _SLICES = 32_000, 32
"""How many characters of a long text are counted, and in how many slices."""

_PIECE = re.compile(
    r"[a-zA-Z]{1,10}"  # a word
    r"|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # one character of Chinese, Japanese or Korean
    r"|[^\W\d_]{1,3}"  # letters of other alphabets
    r"|\d{1,3}|[^\w\s]|_|\n|\s{2,}"
)


def estimate_tokens(text: str) -> int:
    """About how many tokens `text` has, for a model whose tokenizer is unknown.

    Counts words, groups of digits and signs, less 13 %. Compared with cl100k's counts of 16 data sets (questions in
    several languages, code, formulas, answers), the sums are between 28 % too low and 1 % too high. They lean low on
    purpose: too low a count costs one refusal, after which an expert with a larger window is asked; too high a count
    would leave out an expert that can answer. Takes at most 0.1 ms per 1,000 characters; of a text of more than 32,000
    characters that many are counted, in slices from all over it.
    """
    if len(text) <= _SAMPLE:
        return int(0.87 * len(_PIECE.findall(text)))
    step, piece = len(text) / _SLICES, _SAMPLE // _SLICES
    slices = (text[int(number * step) : int(number * step) + piece] for number in range(_SLICES))
    return int(0.87 * sum(len(_PIECE.findall(part)) for part in slices) * len(text) / _SAMPLE)


@dataclass(frozen=True, slots=True)
class Requirements:
    """What one request needs from an expert.

    Attributes:
        tools: The request offers tools.
        json_schema: The answer must follow a schema or a grammar.
        images: The messages hold images.
        input_tokens: Length of the input; None if unknown, then no context window is checked.
        output_tokens: The most tokens of the answer (`max_tokens`); None leaves it to the expert.
        counted: By expert, the input's tokens by the expert's own tokenizer, where they were counted.
    """

    tools: bool = False
    json_schema: bool = False
    images: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    counted: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counted", MappingProxyType(dict(self.counted)))

    @property
    def abilities(self) -> frozenset[Ability]:
        """The abilities that an expert must have."""
        needs: dict[Ability, bool] = {"tools": self.tools, "json_schema": self.json_schema, "images": self.images}
        return frozenset(ability for ability, needed in needs.items() if needed)

    @property
    def reserved(self) -> int:
        """Tokens of the context window that are kept free for the answer.

        At most 1,024, as TGI counts: `max_tokens` is a limit, and seldom reached.
        """
        return min(self.output_tokens or 0, _COUNTED_OUTPUT_TOKENS)

    def length(self, expert: str) -> int | None:
        """Tokens of the input for this expert: by its own tokenizer if counted, else `input_tokens`."""
        return self.counted.get(expert, self.input_tokens)

    def window(self, expert: str) -> int | None:
        """Tokens that this expert's context window must hold, None if unknown."""
        length = self.length(expert)
        return None if length is None else length + self.reserved


@dataclass(frozen=True, slots=True)
class Estimate:
    """An expert's mean output tokens and seconds per answer; None if unknown."""

    output_tokens: float | None = None
    seconds: float | None = None


class Estimates(Mapping[str, Estimate]):
    """The estimates of several experts, kept as arrays. A value: `moved` returns another one.

    Attributes:
        names: The experts.
        output_tokens: In this order, shape (number of experts,); NaN if unknown.
        seconds: The same for seconds.
    """

    def __init__(
        self, names: tuple[str, ...], output_tokens: NDArray[np.float64], seconds: NDArray[np.float64]
    ) -> None:
        self.names, self.output_tokens, self.seconds = names, output_tokens, seconds

    @classmethod
    def of(cls, known: Mapping[str, Estimate], names: tuple[str, ...]) -> Estimates:
        """The estimates of these experts in this order; `known` itself if it is that already."""
        if isinstance(known, cls) and known.names == names:
            return known
        estimates = [known.get(name, _UNKNOWN) for name in names]
        output_tokens = np.array([estimate.output_tokens for estimate in estimates], dtype=float)
        return cls(names, output_tokens, np.array([estimate.seconds for estimate in estimates], dtype=float))

    def moved(self, name: str, estimate: Estimate) -> Estimates:
        """A copy with another estimate of one expert."""
        changed = Estimates(self.names, self.output_tokens.copy(), self.seconds.copy())
        position = self.names.index(name)
        changed.output_tokens[position] = _or_nan(estimate.output_tokens)
        changed.seconds[position] = _or_nan(estimate.seconds)
        return changed

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.names:
            raise KeyError(name)
        position = self.names.index(name)
        return Estimate(_or_none(self.output_tokens[position]), _or_none(self.seconds[position]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


_UNKNOWN = Estimate()


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _or_none(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


class ExpectedPrices(Mapping[str, float]):
    """Expected price of one request for each expert with a known price, by name: USD per 1,000 such requests.

    `(input tokens * input price + output tokens * output price) / 1000`, with prices in USD per million tokens. An
    unknown price counts as 0: experts on one's own machines have none. `max_tokens` caps the answer. Computed for all
    experts at once when first read, since most decisions need no price.

    Args:
        experts: The pool.
        requirements: Lengths of input and answer, as far as the request gives them.
        estimates: Of the pool's experts, in its order.
    """

    def __init__(self, experts: ExpertPool, requirements: Requirements, estimates: Estimates) -> None:
        self._names, self._prices, self._usual = experts.names, experts.prices, estimates.output_tokens
        self._inputs = ASSUMED_INPUT_TOKENS if requirements.input_tokens is None else requirements.input_tokens
        self._counted, self._max_output_tokens = dict(requirements.counted), requirements.output_tokens

    @cached_property
    def of_all(self) -> NDArray[np.float64]:
        """Prices of all experts in the pool's order, shape (number of experts,); 0 for one without known prices."""
        inputs: float | NDArray[np.float64] = self._inputs
        if self._counted:
            inputs = np.array([self._counted.get(name, inputs) for name in self._names], dtype=float)
        outputs = np.where(np.isnan(self._usual), ASSUMED_OUTPUT_TOKENS, self._usual)
        if self._max_output_tokens is not None:
            outputs = np.minimum(outputs, self._max_output_tokens)
        input_price, output_price = np.where(np.isnan(self._prices), 0.0, self._prices)
        prices: NDArray[np.float64] = (inputs * input_price + outputs * output_price) / 1000
        return prices

    @cached_property
    def _by_name(self) -> dict[str, float]:
        priced = np.flatnonzero(~np.isnan(self._prices).all(axis=0))
        return {self._names[position]: float(self.of_all[position]) for position in priced.tolist()}

    def __getitem__(self, name: str) -> float:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return repr(self._by_name)

"""Scorers by name: each turns responses and references into scores of 0 to 1."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Protocol

from torouter.errors import ConfigurationError


class Scorer(Protocol):
    """Scores of `responses` against the `references` of the same positions, each from 0 to 1."""

    def __call__(self, responses: Sequence[str], references: Sequence[str]) -> Sequence[float]: ...


Rule = Callable[[str, str], float]
"""Scores one response against its reference: rule(response, reference)."""

BERTSIM = {"bertsim": "f1", "bertsim-precision": "precision", "bertsim-recall": "recall"}


def contains(response: str, reference: str) -> float:
    """Whether the response contains the reference as a whole word or phrase, in any letter case."""
    words = r"\s+".join(map(re.escape, reference.split()))
    return float(re.search(rf"(?<!\w){words}(?!\w)", response, re.IGNORECASE) is not None)


def exact(response: str, reference: str) -> float:
    """Whether the first line of the response equals the reference's, case included.

    Outer quotes and a final full stop are ignored on both sides.
    """
    return float(_first_line(response) == _first_line(reference))


def choice(response: str, reference: str) -> float:
    """Whether the response chooses the reference's letter (A to J) of a multiple choice.

    The letter is searched as in MMLU-Pro's evaluation (TIGER-AI-Lab/MMLU-Pro, evaluate_from_api.py): what follows the
    last "answer is" or "answer:", else the last single capital letter. Before that last resort, a letter at the start
    of the response, such as "B)", or in brackets is taken, since "A" and "I" are English words too.
    """
    wanted = re.match(r"\W*([A-Ja-j])\b", reference)
    if wanted is None:
        raise ConfigurationError(f"scorer choice: the reference {reference[:40]!r} does not begin with a letter A to J")
    return float(_chosen(response) == wanted[1].upper())


def number(response: str, reference: str) -> float:
    """Whether the last number of the response equals the reference's: 1,000 equals 1000, and 5 equals 5.0."""
    wanted = _last_number(reference)
    if wanted is None:
        raise ConfigurationError(f"scorer number: the reference {reference[:40]!r} has no number")
    return float(_last_number(response) == wanted)


RULES: dict[str, Rule] = {"exact": exact, "contains": contains, "choice": choice, "number": number}
SCORERS = (*BERTSIM, *RULES, "code")


def by_rule(rule: Rule) -> Scorer:
    """A scorer that applies `rule`, any callable, to one pair at a time."""

    def score(responses: Sequence[str], references: Sequence[str]) -> list[float]:
        return [float(rule(response, reference)) for response, reference in zip(responses, references, strict=True)]

    return score


def get_scorer(name: str, *, encoder: str | None = None, allow_code: bool = False) -> Scorer:
    """The scorer of this name.

    Args:
        name: One of `SCORERS`.
        encoder: Directory or Hub id of BERTSim's encoder; None is all-MiniLM-L6-v2.
        allow_code: Whether "code" may run the code that experts wrote, within the limits of `CodeScorer`.

    Raises:
        ConfigurationError: The name is unknown, "code" is not allowed, or the encoder can't be loaded.
        MissingExtraError: BERTSim's packages are not installed.
    """
    if name in BERTSIM:
        from torouter.outcomes.bertsim import BertSim

        return BertSim(encoder, part=BERTSIM[name])
    if name in RULES:
        return by_rule(RULES[name])
    if name != "code":
        raise ConfigurationError(f"scorer {name!r} is unknown: use one of {', '.join(SCORERS)}")
    if not allow_code:
        msg = "scorer 'code' runs code that the experts wrote: allow it with --allow-code (allow_code=True)"
        raise ConfigurationError(msg)
    from torouter.outcomes.code_scorer import CodeScorer

    return CodeScorer()


_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»"}


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0].strip().removesuffix(".")
    while len(line) > 1 and _QUOTES.get(line[0]) == line[-1]:
        line = line[1:-1].strip().removesuffix(".")
    return line


_AFTER_ANSWER = re.compile(r"(?i:answer(?:\s+is|\s*:))[\s:*(\[]*([A-J])\b")
_AT_START = re.compile(r"[\s*(\[]*([A-J])(?:[).\]:,*]|\s*$|\s*\n)")
_IN_BRACKETS = re.compile(r"(?:\(|\[|\*\*)([A-J])(?:\)|\]|\*\*|[.:])")
_ALONE = re.compile(r"(?<![\w'’])([A-J])(?![\w'’])")


def _chosen(response: str) -> str | None:
    if letters := _AFTER_ANSWER.findall(response):
        return str(letters[-1])
    if start := _AT_START.match(response):
        return start[1]
    for pattern in (_IN_BRACKETS, _ALONE):
        if letters := pattern.findall(response):
            return str(letters[-1])
    return None


_DIGITS = re.compile(r"(?<![\w.])(-?)((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")


def _last_number(text: str) -> Decimal | None:
    numbers = _DIGITS.findall(text.replace("\N{MINUS SIGN}", "-"))
    if not numbers:
        return None
    sign, digits = numbers[-1]
    return Decimal(sign + digits.replace(",", ""))

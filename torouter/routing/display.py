"""How a decision is shown to a person: scores as bars."""

from __future__ import annotations

from collections.abc import Mapping

BAR = 24
"""Columns of a full bar."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float) -> str:
    """A bar of `share` (0..1) of BAR columns, in eighths of a column."""
    eighths = round(max(0.0, min(1.0, share)) * BAR * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(BAR)


def score_lines(scores: Mapping[str, float], chosen: str) -> list[str]:
    """One line per expert, the best score first, with the score as a bar; the chosen expert is marked."""
    width = max(len(name) for name in scores)
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    return [f"{'>' if name == chosen else ' '} {name:<{width}}  {bar(score)} {score:.3f}" for name, score in ranked]

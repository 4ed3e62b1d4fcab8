"""Shows a decision to a person: lines with bars for a terminal, an HTML table for a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

BAR = 24
"""Width of a full bar in columns."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR_PIXELS = 160
# Colours that carry enough contrast on a light and on a dark page; the text keeps the notebook's own colour.
_CHOSEN, _OTHER = "#2a7f62", "#8a8f98"


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


def decision_table(
    ranking: Sequence[str], scores: Mapping[str, float], prices: Mapping[str, float], *, caption: str
) -> str:
    """An HTML table with one row per expert: first the ranking in its order, then the experts that were left out.

    Args:
        ranking: Expert names, the chosen one first.
        scores: The router's scores; a bar is full at 1, or at the highest score if that is above 1.
        prices: Expected prices in USD per 1,000 queries; empty leaves their column out.
        caption: Text above the table.
    """
    order = [*ranking, *(name for name in scores if name not in ranking)]
    full = max(1.0, *scores.values()) if scores else 1.0
    head = "<th>expert</th><th colspan='2'>score</th>"
    if prices:
        head += "<th>USD per 1,000 queries</th>"
    rows = "".join(f"<tr>{_cells(name, ranking, scores.get(name), full)}{_price(name, prices)}</tr>" for name in order)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(name: str, ranking: Sequence[str], score: float | None, full: float) -> str:
    label = escape(name)
    if name == ranking[0]:
        label = f"<b>{label}</b>"
    elif name not in ranking:
        label = f"{label} <i>(not asked)</i>"
    cell = f"<td style='text-align:left'>{label}</td>"
    if score is None:
        return f"{cell}<td></td><td>no score</td>"
    width = round(_BAR_PIXELS * max(0.0, score) / full)
    colour = _CHOSEN if name == ranking[0] else _OTHER
    score_bar = f"<div style='width:{width}px;height:0.8em;background:{colour}'></div>"
    return f"{cell}<td style='width:{_BAR_PIXELS}px'>{score_bar}</td><td>{score:.3f}</td>"


def _price(name: str, prices: Mapping[str, float]) -> str:
    if not prices:
        return ""
    price = prices.get(name)
    return f"<td>{'' if price is None else format(price, '.3g')}</td>"

"""A decision as an HTML table for notebooks: scores as bars, expected prices, who is asked first and why."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torouter.routing.decision import RouteDecision

_BAR_PIXELS = 160
# Colours that carry enough contrast on a light and on a dark page; the text keeps the notebook's own colour.
_CHOSEN, _OTHER = "#2a7f62", "#8a8f98"


def decision_table(decision: RouteDecision) -> str:
    """One row per expert: those of the ranking in its order, then those that were left out.

    Scores are the router's; a bar is full at 1 or, where scores go beyond, at the highest.
    """
    order = [*decision.ranking, *(name for name in decision.scores if name not in decision.ranking)]
    full = max(1.0, *decision.scores.values()) if decision.scores else 1.0
    head = "<th>expert</th><th colspan='2'>score</th>"
    if decision.prices:
        head += "<th>USD per 1,000 queries</th>"
    rows = "".join(_row(decision, name, full) for name in order)
    caption = f"asks {escape(decision.expert)} first ({escape(decision.reason)}), {decision.milliseconds:.1f} ms"
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(decision: RouteDecision, name: str, full: float) -> str:
    shown = escape(name)
    if name == decision.expert:
        shown = f"<b>{shown}</b>"
    elif name not in decision.ranking:
        shown = f"{shown} <i>(not asked)</i>"
    score = decision.scores.get(name)
    cells = f"<td style='text-align:left'>{shown}</td>"
    if score is None:
        cells += "<td></td><td>no score</td>"
    else:
        width = round(_BAR_PIXELS * max(0.0, score) / full)
        colour = _CHOSEN if name == decision.expert else _OTHER
        bar = f"<div style='width:{width}px;height:0.8em;background:{colour}'></div>"
        cells += f"<td style='width:{_BAR_PIXELS}px'>{bar}</td><td>{score:.3f}</td>"
    if decision.prices:
        price = decision.prices.get(name)
        cells += f"<td>{'' if price is None else format(price, '.3g')}</td>"
    return f"<tr>{cells}</tr>"

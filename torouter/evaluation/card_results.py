"""The results of an evaluation for a checkpoint's model card."""

from __future__ import annotations

from torouter.evaluation.evaluator import Evaluation
from torouter.evaluation.metric_specs import QUALITY, SAVED
from torouter.evaluation.summary import lines

_BASELINES = ("best single", "random", "oracle")


def card_results(evaluation: Evaluation, router: str) -> dict[str, str]:
    """Lines of the card's table of results: the router's figures, and what the baselines reach."""
    found = {(line.role, line.name): line for line in lines(evaluation)}
    line, replays = found["router", router], evaluation.replays
    tested = " + ".join(str(replay.test_queries) for replay in replays)
    splits = ", ".join(replay.split or "whole table" for replay in replays)
    results = {
        "outcome table, its test queries": f"{evaluation.data_hash}, n = {tested} ({splits})",
        "checkpoints behind each mean": str(line.figures["quality"].replicas),
    }
    for column in (*QUALITY, *SAVED):
        if column.key in line.figures:
            results[column.title] = line.figures[column.key].text(column.form)
    quality = QUALITY[0]
    for name in _BASELINES:
        results[f"quality, {name}"] = found["baseline", name].figures[quality.key].text(quality.form)
    return results

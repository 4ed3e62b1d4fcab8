"""Makes the table of results in a checkpoint's model card from an evaluation."""

from __future__ import annotations

from torouter.evaluation.evaluator import Evaluation
from torouter.evaluation.metric_specs import QUALITY, SAVED
from torouter.evaluation.summary import lines

_BASELINES = ("best single", "random", "oracle")


def card_results(evaluation: Evaluation, router: str) -> dict[str, str]:
    """The card's results, value by name: the figures of the line `router`, and the baselines' quality."""
    by_name = {(line.role, line.name): line for line in lines(evaluation)}
    line, replays = by_name["router", router], evaluation.replays
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
        results[f"quality, {name}"] = by_name["baseline", name].figures[quality.key].text(quality.form)
    return results

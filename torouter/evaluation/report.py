"""Writes an evaluation as a self-contained HTML page, as JSON with all numbers, and as Markdown."""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torouter.errors import ConfigurationError, MissingExtraError
from torouter.evaluation import plots
from torouter.evaluation.evaluator import Evaluation
from torouter.evaluation.metric_specs import ALL
from torouter.evaluation.sections import facts, sections
from torouter.evaluation.summary import Line, lines
from torouter.version import __version__

FORMAT = 1
"""Version of report.json."""


def prepare(directory: str | os.PathLike[str]) -> Path:
    """Make the directory and check that a report can be drawn, before hours are spent on its contents.

    Raises:
        ConfigurationError: The directory can't be created.
        MissingExtraError: matplotlib or Jinja2 is missing.
    """
    if not all(find_spec(name) for name in ("jinja2", "matplotlib")):
        raise MissingExtraError("reports need Jinja2 and matplotlib: pip install 'torouter[train]'")
    out = Path(directory)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"report={str(out)!r} can't be created: {error}") from error
    return out


def write_report(evaluation: Evaluation, directory: str | os.PathLike[str]) -> Path:
    """Write `report.html`, `report.json` and `report.md`; a reader sees each file's old text or the whole new one.

    Args:
        evaluation: What to report.
        directory: Created if it is missing; other files in it are left alone.

    Returns:
        The directory.

    Raises:
        ConfigurationError: The directory can't be written.
        MissingExtraError: matplotlib or Jinja2 is missing.
    """
    out = prepare(directory)
    texts = {"report.html": page(evaluation), "report.json": as_json(evaluation), "report.md": markdown(evaluation)}
    try:
        with tempfile.TemporaryDirectory(prefix=".report-", dir=out) as fresh:
            for name, text in texts.items():
                (Path(fresh) / name).write_text(text, encoding="utf-8")
            for name in texts:
                (Path(fresh) / name).replace(out / name)
    except OSError as error:
        raise ConfigurationError(f"report={str(out)!r} can't be written: {error}") from error
    return out


def page(evaluation: Evaluation) -> str:
    """The HTML page, which loads nothing from elsewhere."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("torouter.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = sections(evaluation)
    rows = lines(evaluation)
    return environment.get_template("report.html.jinja").render(
        facts=facts(evaluation),
        sections=parts,
        plots={section.plot: getattr(plots, section.plot)(rows) for section in parts if section.plot},
        version=__version__,
    )


def markdown(evaluation: Evaluation) -> str:
    """The tables as Markdown."""
    blocks = ["# Router evaluation", "\n".join(f"- {fact}" for fact in facts(evaluation))]
    for section in sections(evaluation):
        blocks += [f"## {section.title}", section.text]
        for table in section.tables:
            blocks += [f"### {table.caption}"] * bool(table.caption) + [table.markdown()]
        if section.columns:
            blocks.append("\n".join(f"- {column.title}: {column.meaning}" for column in section.columns))
    return "\n\n".join(blocks) + "\n"


def as_json(evaluation: Evaluation) -> str:
    """All numbers; undefined ones are null."""
    document = {
        "format": FORMAT,
        "torouter": __version__,
        "data_hash": evaluation.data_hash,
        "queries": evaluation.queries,
        "experts": evaluation.experts,
        "notes": evaluation.notes,
        "meanings": {column.key: column.meaning for column in ALL},
        "summary": [_line(line) for line in lines(evaluation)],
        "splits": [
            {
                "split": replay.split,
                "train_queries": replay.train_queries,
                "test_queries": replay.test_queries,
                "priced_queries": replay.priced_queries,
                "priced_experts": replay.priced_experts,
                "best_single": replay.single,
                "pair": replay.pair,
                "contenders": [{"name": c.name, "role": c.role, **c.metrics} for c in replay.contenders],
            }
            for replay in evaluation.replays
        ],
        "left_out": [asdict(row) for row in evaluation.left_out],
    }
    return json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _line(line: Line) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": line.name,
        "role": line.role,
        "figures": {key: asdict(figure) for key, figure in line.figures.items()},
        "shares": {dataset: shares.tolist() for dataset, shares in line.shares.items()},
    }
    if line.curve is not None:
        entry["curve"] = {key: values.tolist() for key, values in asdict(line.curve).items()}
    if line.reliability is not None:
        counts, predicted, observed = (values.tolist() for values in line.reliability.filled())
        entry["reliability"] = {"counts": counts, "predicted": predicted, "observed": observed}
    return entry


def _plain(value: Any) -> Any:
    """The same with None for numbers that JSON can't represent."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

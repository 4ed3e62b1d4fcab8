"""The files that describe a checkpoint, router.json and the model card README.md, made from its config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from torouter.routers import checkpoint
from torouter.routers.config import RouterConfig

_PAGE = """---
{header}---

# A torouter router ({kind})

Scores {count} experts for a query, so that the query can be sent to the one that is expected to answer it best.

```python
from torouter import AutoRouter

router = AutoRouter.from_pretrained("this directory or its Hub id")
router.scores(["a query"])  # float32, one column per expert of router.experts
```

## Experts

| expert | served model | USD per million tokens in | out | context window |
|---|---|---|---|---|
{experts}

Columns are matched by these names, never by position.

## How it was made

{facts}

## Results

{results}

## Limits

- Scores rest on the outcomes of training: for queries that are unlike the training queries the ranking is a guess.
- Scores describe the experts as they were when the outcomes were recorded; a changed model goes unnoticed.
{limit}
"""


def write_description(directory: Path, config: RouterConfig, *, card: str | None = None) -> None:
    """Write the two files that describe a checkpoint, `router.json` and the card.

    Args:
        directory: The checkpoint's directory.
        config: The router's config.
        card: Text of README.md; None is the card that the config makes.
    """
    _replace_text(directory / checkpoint.CONFIG, config.to_json())
    write_card(directory, card or model_card(config))


def write_card(directory: str | os.PathLike[str], card: str) -> None:
    """Write README.md of a checkpoint; a reader sees the old text or the whole new one."""
    _replace_text(Path(directory) / checkpoint.CARD, card)


def _replace_text(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def model_card(config: RouterConfig, metrics: Mapping[str, str] | None = None) -> str:
    """The text of README.md.

    Args:
        config: The router's config.
        metrics: Lines of the results' table, from a metric's name to its value with n and seeds, such as
            {"quality (n=1108, 5 seeds)": "0.708 ± 0.007"}.
    """
    header = {
        "library_name": "torouter",
        "pipeline_tag": "text-classification",
        "tags": ["torouter", "llm-routing", f"{config.kind}-router"],
        **({"base_model": config.encoder} if config.encoder and "/" in config.encoder else {}),
    }
    experts = "\n".join(
        f"| {_cell(e.name)} | {_cell(e.model)} | {_cell(e.input_price)} | {_cell(e.output_price)} "
        f"| {_cell(e.context_window)} |"
        for e in config.experts
    )
    results = "Not measured yet; `torouter evaluate --card` fills this in."
    if metrics:
        results = "| metric | value |\n|---|---|\n" + "\n".join(
            f"| {_cell(name)} | {_cell(value)} |" for name, value in metrics.items()
        )
    limit = (
        "- Scores are estimates of quality in 0..1 and may be traded against cost."
        if config.scores_are_qualities
        else "- Scores are shares of a softmax: they rank the experts of one query and are no probabilities of success."
    )
    return _PAGE.format(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        kind=config.kind,
        count=len(config.experts),
        experts=experts,
        facts="\n".join(f"- {name}: {value}" for name, value in _facts(config).items() if value is not None),
        results=results,
        limit=limit,
    )


def _facts(config: RouterConfig) -> dict[str, Any]:
    labels = None
    if config.label_form:
        labels = f"soft, form {config.label_form}, T={config.temperature} (the paper does not say which form it uses)"
    return {
        "kind": config.kind,
        "objective": config.objective,
        "labels": labels,
        "encoder": config.encoder,
        "longest query read, tokens": config.max_length,
        "served precision": config.precision,
        "hash of the outcome table": config.data_hash,
        "torouter": config.package_version,
        **{name: value for name, value in config.settings.items() if not isinstance(value, (list, dict))},
        **{f"training: {name}": value for name, value in config.training.items()},
    }


def _cell(value: object) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")

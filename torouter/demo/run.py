"""The demo, step by step: experts, training, the gain of routing, a routed chain, an expert that fails."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torouter.demo.server import Forwarder, forwarders, smollm2_server
from torouter.errors import ConfigurationError, MissingExtraError
from torouter.experts import Expert, ExpertPool
from torouter.outcomes.collector import collect
from torouter.outcomes.labeller import label
from torouter.outcomes.queries import Query, read_queries
from torouter.outcomes.table import OutcomeTable
from torouter.routers.judging import routed_quality
from torouter.routers.router import Router
from torouter.routing.display import score_lines
from torouter.training.arguments import TrainingArguments

if TYPE_CHECKING:
    from langchain_core.messages import AIMessageChunk

    from langchain_torouter import RoutedChatModel

SPLIT = "standard:0"
UNSEEN = (
    "What is the capital of Sweden?",
    "Write a Python function called triple(n) that gives back three times n.",
    "Tom has 14 coins and finds 5 more. How many coins does he have?",
    "Which planet do we live on?",
    "Compute 23 - 8.",
)
"""Asked at the end; none of them is in the outcome table."""


def data_folder() -> Path:
    """`examples/data` of the checkout that is the working directory or contains this package.

    Raises:
        ConfigurationError: It is missing, as in a wheel, which does not contain the demo's outcomes.
    """
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        folder = root / "examples" / "data"
        if (folder / "outcomes.parquet").is_file():
            return folder
    raise ConfigurationError("examples/data/outcomes.parquet is missing: run the demo inside a checkout of torouter")


async def demo(
    *,
    experts: Path | None = None,
    out: Path | None = None,
    epochs: int | None = None,
    questions: int = 120,
    allow_code: bool = False,
) -> None:
    """Run the demo and print what happens.

    Args:
        experts: An experts.yaml with running endpoints; None starts the demo's own experts on this machine.
        out: Where the trained router is kept; None deletes it at the end.
        epochs: Of training; None for the default.
        questions: How many of the demo's queries your own experts are asked, to get outcomes for training.
        allow_code: Whether Python that your experts write may be run to score it; if not, they are not asked for any.

    Raises:
        MissingExtraError: LangChain, the server or the weights are not installed.
    """
    try:
        import langchain_core  # noqa: F401 - checked here, not after a minute of training
    except ImportError:
        raise MissingExtraError("the demo routes a LangChain chain: pip install 'torouter[demo]'") from None
    logging.getLogger("transformers").setLevel(logging.ERROR)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torouter-demo-") as scratch:
        async with _start_experts(experts) as (pool, forwarder_of):
            _title("1. Experts")
            for expert in pool.values():
                print(f"  {expert.name:<10} {expert.url}  {_prices(expert)}")
            table = OutcomeTable.read(data_folder() / "outcomes.parquet")
            if set(table.experts) != set(pool.names):
                table = await _collect_outcomes(
                    pool, questions, Path(scratch) / "outcomes.parquet", allow_code=allow_code
                )
            router = _train(table, pool, out or Path(scratch) / "router", epochs)
            await _route_questions(router, pool)
            await _fail_over(router, pool, forwarder_of)
    print(f"\nDone in {time.monotonic() - start:.0f} s.")


@asynccontextmanager
async def _start_experts(path: Path | None) -> AsyncIterator[tuple[ExpertPool, Mapping[str, Forwarder]]]:
    """The experts, and by name the forwarders of the demo's own experts, which can be shut."""
    if path is not None:
        yield ExpertPool.from_yaml(path), {}
        return
    described = ExpertPool.from_yaml(data_folder() / "experts.yaml")
    with smollm2_server() as url:
        async with forwarders(url, list(described)) as own:
            pool = ExpertPool([replace(described[name], url=its_url, urls=()) for name, (its_url, _) in own.items()])
            yield pool, {name: forwarder for name, (_, forwarder) in own.items()}


async def _collect_outcomes(pool: ExpertPool, questions: int, out: Path, *, allow_code: bool) -> OutcomeTable:
    """Outcomes of the user's own experts on some of the demo's queries."""
    by_dataset: dict[str, list[Query]] = {}
    for query in read_queries(data_folder() / "queries.jsonl"):
        if allow_code or query.scorer != "code":
            by_dataset.setdefault(query.dataset, []).append(query)
    # Spread evenly over each data set, as neighbouring queries are alike.
    each = max(1, questions // len(by_dataset))
    queries = [query for part in by_dataset.values() for query in part[:: max(1, len(part) // each)][:each]]
    print(f"  The router needs outcomes of these experts: each is asked {len(queries)} queries.", flush=True)
    return label(await collect(pool, queries, out), "table", allow_code=allow_code)


def _train(table: OutcomeTable, pool: ExpertPool, out: Path, epochs: int | None) -> Router:
    """Train a BERT-Router on the train part of the table, and print its quality on the test part."""
    from torouter.training.trainer import train

    _title("2. Training a BERT-Router")
    train_part, test_part = table.split(SPLIT)
    print(f"  on {len(train_part)} of {len(table)} queries, {len(table.experts)} experts", flush=True)
    began = time.monotonic()
    router = train(train_part, out=out, arguments=TrainingArguments(router="bert", epochs=epochs), experts=pool)
    print(f"  took {time.monotonic() - began:.0f} s, served in {router.config.precision}")

    _title(f"3. The gain of routing on the {len(test_part)} test queries")
    outcomes = test_part.matrix()
    scores = router.scores(outcomes.queries)[:, [router.experts.index(name) for name in outcomes.experts]]
    # The best single expert is picked on the train part, as the router was trained there.
    single = int(train_part.matrix().scores.mean(axis=0).argmax())
    routed = routed_quality(scores, outcomes.scores)
    alone = float(outcomes.scores[:, single].mean())
    oracle = float(outcomes.scores.max(axis=1).mean())
    for name, quality in (
        *zip(outcomes.experts, outcomes.scores.mean(axis=0), strict=True),
        ("routed", routed),
        ("oracle", oracle),
    ):
        print(f"  {name:<10} {quality:.3f}" + ("  best single expert" if name == outcomes.experts[single] else ""))
    gain = 100 * (routed - alone)
    print(f"  Routing {'gains' if gain > 0 else 'does not gain:'} {gain:+.1f} points over {outcomes.experts[single]}.")
    return router


def _chat_model(router: Router, pool: ExpertPool) -> RoutedChatModel:
    from langchain_torouter import RoutedChatModel

    return RoutedChatModel(router=router, experts=pool)


async def _route_questions(router: Router, pool: ExpertPool) -> None:
    _title("4. Unseen questions through a LangChain chain, streamed")
    model = _chat_model(router, pool)
    for question in UNSEEN:
        await _ask(model, question)


async def _fail_over(router: Router, pool: ExpertPool, forwarder_of: Mapping[str, Forwarder]) -> None:
    """Shut the expert that would answer, and ask; a user's own experts are not shut."""
    if not forwarder_of:
        return
    _title("5. An expert goes down")
    model = _chat_model(router, pool)
    question = UNSEEN[-1]
    down = model.route(question).expert
    await forwarder_of[down].stop()
    print(f"  {down} is shut; the next expert in the question's ranking answers:")
    await _ask(model, question)


async def _ask(model: RoutedChatModel, question: str) -> None:
    from langchain_core.messages.ai import add_ai_message_chunks
    from langchain_core.prompts import ChatPromptTemplate

    chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | model
    print(f"\n  {question}")
    decision = model.route(question)
    for line in score_lines(decision.scores, decision.expert):
        print(f"    {line}")
    began = time.perf_counter()
    print("    ", end="")
    chunks = []
    async for chunk in chain.astream({"question": question}):
        print(chunk.text.replace("\n", "\n    "), end="", flush=True)
        chunks.append(cast("AIMessageChunk", chunk))  # the chain's type is wider
    answer = add_ai_message_chunks(*chunks)
    routing, usage = answer.response_metadata["routing"], answer.usage_metadata
    tokens = usage["output_tokens"] if usage else 0
    print(f"\n    [{routing['expert']}: {tokens} tokens in {1000 * (time.perf_counter() - began):.0f} ms]")
    for attempt in routing["failed_attempts"]:
        print(f"    [before that {attempt['expert']} failed: {attempt['error']}]")


def _prices(expert: Expert) -> str:
    if expert.input_price is None or expert.output_price is None:
        return ""
    return f"USD {expert.input_price:g} in, {expert.output_price:g} out per million tokens"


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)

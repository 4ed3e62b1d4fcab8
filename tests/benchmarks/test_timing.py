"""The benchmarks of decision and start, end to end with a tiny encoder, and how contenders are asked and timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import start
from benchmarks.decision import decision_times as decision
from benchmarks.decision.timed_routers import Texts, prepare
from benchmarks.harness.contenders import Contender, installed, started
from benchmarks.harness.timing import in_turns, ratio
from torouter import AutoRouter

TALKING = Contender("talking", "tests.support.noisy_contender", arguments=("own",))


@pytest.fixture(scope="module")
def routers(bert_directory: Path, mlp_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as --routers takes it."""
    directory = tmp_path_factory.mktemp("routers")
    for kind, checkpoint in {"bert": bert_directory, "mlp": mlp_directory, "fast": mlp_directory}.items():
        (directory / kind).symlink_to(checkpoint, target_is_directory=True)
    return directory


def result(out: Path, name: str) -> tuple[dict[str, Any], str]:
    """What a benchmark wrote: JSON and page."""
    return json.loads((out / f"{name}.json").read_text()), (out / f"{name}.md").read_text()


def test_decisions_are_timed_by_length_and_batch(routers: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    asked = ["--tokens", "8", "12", "--batches", "1", "3", "--repeats", "2", "--contenders", decision.BASE, "MLPRouter"]
    decision.main([*asked, "--routers", str(routers), "--encoder", str(tiny_encoder), "--out", str(tmp_path)])
    found, page = result(tmp_path, "decision")
    assert found["unit"] == "seconds"
    assert list(found["medians"]) == ["1 x 8", "1 x 12", "3 x 8", "3 x 12"]
    for case, by in found["repeats"].items():
        assert {name: len(figures) for name, figures in by.items()} == {decision.BASE: 2, "MLPRouter": 2}, case
        assert all(figure > 0 for figures in by.values() for figure in figures)
    assert "| MLPRouter |" in page
    assert f"| {decision.BASE} | 1.00 | 1.00 | 1.00 | 1.00 |" in page


def test_a_router_that_would_cut_the_queries_is_not_timed(routers: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    asked = ["--tokens", "17", "--contenders", "MLPRouter", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="reads 16 tokens of a query"):
        decision.main([*asked, "--routers", str(routers), "--encoder", str(tiny_encoder)])


def test_a_target_is_met_or_missed_where_both_its_contenders_were_measured() -> None:
    case = decision.case(decision.TARGET_TOKENS, 1)
    figures = {case: {decision.BASE: [2.0, 2.0], decision.TORCH: [10.0, 10.0], decision.SELECTOR: [10.0, 10.0]}}
    met = {target["ratio"]: target["met"] for target in decision.target_results(figures)}
    assert met == {
        f"{decision.BASE} / {decision.TORCH}": True,
        f"{decision.BASE} / {decision.SELECTOR}": False,
    }
    page = decision.page(figures, list(figures[case]), "command")
    assert "0.200 | 0.28 | met" in page
    assert "0.200 | 0.05 | missed" in page


def test_queries_have_exactly_the_wanted_tokens_and_differ(tiny_encoder: Path) -> None:
    from tokenizers import Tokenizer

    texts = Texts(tiny_encoder)
    made = [texts.text(16) for _ in range(5)]
    tokenizer = Tokenizer.from_file(str(tiny_encoder / "tokenizer.json"))
    assert {len(tokenizer.encode(text).ids) for text in made} == {16}
    assert len(set(made)) == 5


def test_a_missing_router_is_trained_and_kept(tiny_embedding: Path, tmp_path: Path) -> None:
    directory = prepare("mlp", tmp_path, tiny_embedding, queries=60, max_length=16)
    router = AutoRouter.from_pretrained(directory)
    assert len(router.experts) == 8
    (tmp_path / "outcomes.parquet").unlink()
    assert prepare("mlp", tmp_path, tiny_embedding) == directory
    assert not (tmp_path / "outcomes.parquet").exists()


def test_a_fresh_start_is_timed_until_its_decision(routers: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    asked = ["--here", "--repeats", "1", "--contenders", "import torouter", start.BASE]
    start.main([*asked, "--routers", str(routers), "--encoder", str(tiny_encoder), "--out", str(tmp_path)])
    found, page = result(tmp_path, "start")
    assert set(found["medians"]) == {"seconds", "CPU seconds", "MiB"}
    for measure, by in found["medians"].items():
        assert 0 < by["import torouter"] < by[start.BASE], measure
    assert f"Target, {start.BASE} within 2.5 s" in page


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(SystemExit, match="no_such_module"):
        start.Program("broken", "import no_such_module", sys.executable).run()


def test_the_size_of_an_install_leaves_pip_out(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, count in {"ours/deep/a.py": 3_000_000, "ours-1.dist-info/RECORD": 500_000, "pip/b.py": 9_000_000}.items():
        (packages / name).parent.mkdir(parents=True)
        (packages / name).write_bytes(bytes(count))
    assert start.size(str(tmp_path / "bin" / "python")) == (3.5, 1)


def test_what_libraries_print_does_not_spoil_a_contenders_answers() -> None:
    with started([TALKING], ("shared",)) as (worker,):
        assert worker.ready == {"arguments": ["own", "shared"]}
        assert [worker.ask({"n": n}) for n in range(3)] == [{"n": n} for n in range(3)]


def test_a_contender_that_dies_ends_the_benchmark_with_its_log() -> None:
    with started([TALKING]) as (worker,), pytest.raises(SystemExit, match="I was asked to die"):
        worker.ask({"die": 1})


def test_a_failed_installation_leaves_no_environment_behind(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        installed(tmp_path / "peer", "--no-index", "no-such-package")
    assert not (tmp_path / "peer").exists()


def test_a_contender_that_cannot_do_a_case_has_no_figure_for_it() -> None:
    other = Contender("other", "tests.support.noisy_contender")
    with started([TALKING, other]) as workers:
        figures = in_turns(workers, {"can": {"seconds": 2.0}, "cannot": {}}, 3, progress=False)
    assert figures == {"can": {"talking": [2.0] * 3, "other": [2.0] * 3}, "cannot": {}}


def test_a_ratio_compares_within_each_repeat() -> None:
    """The machine is ten times slower in the second repeat, and for `b` in the third one alone."""
    figures = {"case": {"a": [1.0, 10.0, 1.0], "b": [2.0, 20.0, 20.0]}}
    assert ratio(figures, "case", "a", "b") == 0.5

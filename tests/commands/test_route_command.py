"""The command line: `torouter route`, and how every command fails."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny
from torouter.cli import COMMANDS, main


def test_route_prints_the_experts_by_score_with_bars(bert_directory, capsys):
    assert main(["route", tiny.QUERIES[2], "--router", str(bert_directory)]) == 0

    lines = capsys.readouterr().out.splitlines()
    names, bars, scores = zip(*(line.strip("> ").split() for line in lines), strict=True)
    assert names[0] == "math"
    assert sorted(names) == list(tiny.EXPERTS)
    assert list(scores) == sorted(scores, reverse=True)
    assert len(bars[0]) > len(bars[1])


def test_route_prints_json(bert_directory, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(tiny.QUERIES[0]))

    assert main(["route", "-", "--router", str(bert_directory), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["expert"] == found["ranking"][0] == "code"
    assert set(found["scores"]) == set(tiny.EXPERTS)


def test_both_engines_can_be_asked(bert_directory, capsys):
    assert main(["route", tiny.QUERIES[1], "--router", str(bert_directory), "--engine", "torch"]) == 0

    assert capsys.readouterr().out.startswith("> facts ")


def test_a_failure_is_one_line_on_stderr_and_exit_code_two(tmp_path):
    command = Path(sys.executable).with_name("torouter")
    found = subprocess.run(
        [command, "route", "x", "--router", tmp_path / "none"], capture_output=True, text=True, check=False
    )

    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("torouter: ")
    assert "no such directory" in found.stderr


def test_a_half_written_table_is_refused_and_nothing_is_overwritten(bert_directory, tmp_path, capsys):
    tiny.table().write(tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[:-100])
    before = sorted((path.name, path.stat().st_mtime_ns) for path in bert_directory.iterdir())

    assert main(["train", str(tmp_path / "t.parquet"), "--out", str(bert_directory)]) == 2

    assert "half written" in capsys.readouterr().err
    assert sorted((path.name, path.stat().st_mtime_ns) for path in bert_directory.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--split", "random:1"], "standard:SEED"),
        (["--seed", "-1"], "seed=-1"),
        (["--experts", "none.yaml"], "none.yaml: no such file"),
        (["--encoder", "./none"], "not a directory"),
    ],
)
def test_wrong_options_of_train_are_refused(options, words, tmp_path, capsys):
    tiny.table().write(tmp_path / "t.parquet")

    assert main(["train", str(tmp_path / "t.parquet"), "--out", str(tmp_path / "out"), *options]) == 2

    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_train_learns_from_the_train_part_of_a_split_and_from_several_tables(tiny_embedding, tmp_path, capsys):
    tiny.table(60).write(tmp_path / "a.parquet")
    frame = tiny.frame(40)
    frame["query_id"] = "more/" + frame["query_id"]
    frame.to_csv(tmp_path / "b.csv", index=False)
    tables = [str(tmp_path / "a.parquet"), str(tmp_path / "b.csv")]
    options = ["--router", "knn", "--encoder", str(tiny_embedding), "--split", "standard:0"]

    assert main(["train", *tables, *options, "--out", str(tmp_path / "out")]) == 0

    assert "trained on 72 queries" in capsys.readouterr().out  # 100, less a fifth, less a tenth of the rest


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])

    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)

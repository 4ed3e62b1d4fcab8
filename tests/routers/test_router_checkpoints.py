"""A router's checkpoint: what stock tools read of it, which ones are refused, and what saving replaces."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.support import tiny
from torouter import AutoRouter, BertRouter, BestSingleRouter
from torouter.errors import CheckpointError, ConfigurationError


def test_a_bert_checkpoint_is_a_stock_hugging_face_directory(bert_directory):
    from transformers import AutoModelForSequenceClassification, pipeline

    model = AutoModelForSequenceClassification.from_pretrained(bert_directory)
    assert model.config.id2label == dict(enumerate(tiny.EXPERTS))
    found = pipeline("text-classification", model=str(bert_directory))(tiny.QUERIES[2], top_k=None)
    ours = BertRouter.from_pretrained(bert_directory, precision="fp32").scores([tiny.QUERIES[2]])[0]
    assert {entry["label"]: pytest.approx(entry["score"], abs=1e-4) for entry in found} == dict(
        zip(tiny.EXPERTS, ours.tolist(), strict=True)
    )


def test_a_stock_model_knows_the_experts_that_came_and_went(bert_directory, outcomes, tmp_path):
    from transformers import pipeline

    changed = BertRouter.from_pretrained(bert_directory, precision="fp32").remove_expert("code")
    changed = changed.add_expert("all", tiny.everything(outcomes))
    changed.save_pretrained(tmp_path / "changed")

    found = pipeline("text-classification", model=str(tmp_path / "changed"))(tiny.QUERIES[1], top_k=None)
    ours = dict(zip(("facts", "math", "all"), changed.scores([tiny.QUERIES[1]])[0].tolist(), strict=True))
    assert {entry["label"]: pytest.approx(entry["score"], abs=1e-4) for entry in found} == ours
    import onnx
    import onnxruntime as ort

    for graph in ("model.onnx", "model_int8.onnx"):
        onnx.checker.check_model(onnx.load(tmp_path / "changed" / graph))
        session = ort.InferenceSession(tmp_path / "changed" / graph)
        ids = np.array([[2, 5, 3]])
        logits = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        assert logits.shape == (1, 3)


def test_experts_are_matched_by_name_and_never_by_position(bert_directory, outcomes, tmp_path):
    shutil.copytree(bert_directory, tmp_path / "turned")
    file = tmp_path / "turned" / "router.json"
    document = json.loads(file.read_text())
    document["experts"] = document["experts"][::-1]
    file.write_text(json.dumps(document))

    turned = AutoRouter.from_pretrained(tmp_path / "turned")

    assert turned.experts == tiny.EXPERTS[::-1]
    straight = AutoRouter.from_pretrained(bert_directory).scores(outcomes.queries[:4])
    np.testing.assert_array_equal(turned.scores(outcomes.queries[:4]), straight[:, ::-1])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("router.json", None, "has no router.json"),
        ("router.json", "{", "not JSON"),
        ("router.json", '{"format": 99}', "format 99.*upgrade"),
        ("router.json", '{"format": 1, "kind": "bert"}', "lacks experts"),
        ("router.json", '{"format": 1, "kind": "poem", "experts": [{"name": "a"}]}', "kind 'poem' is unknown"),
        ("router.json", '{"format": 1, "kind": "bert", "experts": [{"name": "a"}]}', "differ in their experts"),
        ("config.json", '{"id2label": {"0": "a"}}', "differ in their experts"),
        ("config.json", "[]", "is not a JSON object"),
        ("tokenizer.json", None, "lacks tokenizer.json"),
        ("tokenizer.json", "{}", "tokenizer.json can't be used"),
        ("model_int8.onnx", None, "lacks model_int8.onnx"),
        ("model_int8.onnx", "no graph", "can't be loaded"),
        ("model.safetensors", None, "lacks model.safetensors"),
        ("model.safetensors", "no weights", "no readable layer"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(bert_directory, tmp_path, name, content, words):
    shutil.copytree(bert_directory, tmp_path / "damaged")
    (tmp_path / "damaged" / name).unlink()
    if content is not None:
        (tmp_path / "damaged" / name).write_text(content)

    with pytest.raises(CheckpointError, match=words):
        AutoRouter.from_pretrained(tmp_path / "damaged")


def test_what_is_neither_a_directory_nor_a_hub_id_is_refused(tmp_path):
    for name in (tmp_path / "none", "none", "a/b/c", "~/router"):
        with pytest.raises(CheckpointError, match="no such directory"):
            AutoRouter.from_pretrained(name)
    with pytest.raises(CheckpointError, match="nor available from the Hub"):
        AutoRouter.from_pretrained("nobody/no-such-router", local_files_only=True, cache_dir=tmp_path)


def test_a_router_of_another_kind_is_refused(knn_directory):
    with pytest.raises(CheckpointError, match="'knn' router, which BertRouter can't load"):
        BertRouter.from_pretrained(knn_directory)
    with pytest.raises(ConfigurationError, match="engine='torch' can't run a 'knn' router"):
        AutoRouter.from_pretrained(knn_directory, engine="torch")


def test_saving_never_overwrites_what_is_no_checkpoint(outcomes, tmp_path):
    router = BestSingleRouter.fit(outcomes)
    (tmp_path / "diary.txt").write_text("mine")

    with pytest.raises(CheckpointError, match="no router's checkpoint"):
        router.save_pretrained(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_saving_over_a_checkpoint_replaces_all_of_it(bert_directory, outcomes, tmp_path):
    AutoRouter.from_pretrained(bert_directory).save_pretrained(tmp_path / "router")
    BestSingleRouter.fit(outcomes).save_pretrained(tmp_path / "router")

    assert sorted(path.name for path in (tmp_path / "router").iterdir()) == ["README.md", "router.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["router"]


def test_a_router_can_be_saved_over_its_own_directory(bert_directory, outcomes, tmp_path):
    shutil.copytree(bert_directory, tmp_path / "router")
    router = AutoRouter.from_pretrained(tmp_path / "router")

    router.remove_expert("code").save_pretrained(tmp_path / "router")

    assert AutoRouter.from_pretrained(tmp_path / "router").experts == ("facts", "math")
    assert router.scores(outcomes.queries[:1]).shape == (1, 3)


def test_the_card_has_a_header_names_the_experts_and_gives_the_data_hash(soft_directory):
    import yaml

    card = (soft_directory / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])

    assert header["library_name"] == "torouter"
    assert header["pipeline_tag"] == "text-classification"
    assert all(f"| {name} |" in card for name in tiny.EXPERTS)
    assert tiny.table().data_hash in card
    assert "multiply, T=10" in card
    assert "paper does not say" in card

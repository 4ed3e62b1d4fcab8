"""Every kind of router: one contract, one form of checkpoint, experts that come and go."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support import tiny
from torouter import (
    AutoRouter,
    BertRouter,
    BestSingleRouter,
    KNNRouter,
    MLPRouter,
    OracleRouter,
    RandomRouter,
    Router,
)
from torouter.errors import CheckpointError, ConfigurationError, OutcomeTableError
from torouter.routers.config import ExpertFacts, RouterConfig
from torouter.routers.encoders.tokenizer import QueryTokenizer
from torouter.routers.knn import Memory
from torouter.routers.neighbour_search import Search
from torouter.routers.outcome_matrix import OutcomeMatrix

KINDS = ("bert", "soft", "mlp", "knn", "fast", "random", "best-single", "oracle")
TRAINED = ("bert", "soft", "mlp", "knn", "fast")


@pytest.fixture
def outcomes() -> OutcomeMatrix:
    return tiny.table().matrix()


@pytest.fixture
def router(request: pytest.FixtureRequest, outcomes: OutcomeMatrix) -> Router:
    kind = request.param
    if kind in TRAINED:
        return AutoRouter.from_pretrained(request.getfixturevalue(f"{kind}_directory"))
    if kind == "random":
        return RandomRouter.of(tiny.EXPERTS, seed=7)
    return {"best-single": BestSingleRouter, "oracle": OracleRouter}[kind].fit(outcomes)


every_kind = pytest.mark.parametrize("router", KINDS, indirect=True)
trained_kinds = pytest.mark.parametrize("router", TRAINED, indirect=True)


@every_kind
def test_scores_are_one_float_per_query_and_expert(router, outcomes):
    scores = router.scores(outcomes.queries[:5])

    assert router.experts == tiny.EXPERTS
    assert scores.shape == (5, 3)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert router.scores([]).shape == (0, 3)


@every_kind
def test_a_saved_router_comes_back_with_the_same_scores_and_revision(router, outcomes, tmp_path):
    router.save_pretrained(tmp_path / "copy")

    again = AutoRouter.from_pretrained(tmp_path / "copy")

    assert type(again) is type(router)
    assert again.revision == router.revision
    assert again.config == router.config
    np.testing.assert_array_equal(again.scores(outcomes.queries[:9]), router.scores(outcomes.queries[:9]))
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pickle")]


@every_kind
def test_an_expert_that_is_removed_leaves_the_others_in_order(router, outcomes, tmp_path):
    smaller = router.remove_expert("facts")
    smaller.save_pretrained(tmp_path / "smaller")
    again = AutoRouter.from_pretrained(tmp_path / "smaller")

    before, after = router.scores(outcomes.queries[:6]), smaller.scores(outcomes.queries[:6])
    assert smaller.experts == again.experts == ("code", "math")
    assert router.experts == tiny.EXPERTS
    assert smaller.revision != router.revision
    np.testing.assert_allclose(again.scores(outcomes.queries[:6]), after, atol=1e-5)
    if router.config.kind != "random":
        kept = before[:, [0, 2]]
        # Shares of a softmax are shares of those that are left; qualities stay what they were.
        kept = kept if router.config.scores_are_qualities else kept / kept.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(after, kept, rtol=1e-4)


@every_kind
def test_an_unknown_or_the_last_expert_cant_be_removed(router):
    with pytest.raises(ConfigurationError, match=r"'poetry'.*knows code, facts, math"):
        router.remove_expert("poetry")
    with pytest.raises(ConfigurationError, match="only one"):
        router.remove_expert("code").remove_expert("facts").remove_expert("math")


@every_kind
def test_an_expert_that_is_added_comes_last_and_lives_in_the_checkpoint(router, outcomes, tmp_path):
    added = router.add_expert("all", everything(outcomes))
    added.save_pretrained(tmp_path / "added")
    again = AutoRouter.from_pretrained(tmp_path / "added")

    assert added.experts == again.experts == (*tiny.EXPERTS, "all")
    np.testing.assert_allclose(again.scores(outcomes.queries[:6]), added.scores(outcomes.queries[:6]), atol=1e-5)
    with pytest.raises(ConfigurationError, match="knows an expert 'all' already"):
        added.add_expert("all", everything(outcomes))


@trained_kinds
def test_an_added_expert_is_chosen_where_it_is_the_best(router, outcomes):
    reduced = router.remove_expert("math")

    grown = reduced.add_expert("math", outcomes.rows(np.arange(0, 240, 2)))

    assert grown.experts == ("code", "facts", "math")
    assert [grown.experts[i] for i in grown.scores(tiny.QUERIES).argmax(axis=1)] == ["code", "facts", "math"]


@trained_kinds
def test_an_expert_that_went_and_came_again_is_saved_with_its_new_row(router, outcomes, tmp_path):
    again = router.remove_expert("math").add_expert("math", outcomes.rows(np.arange(60)))

    again.save_pretrained(tmp_path / "again")

    loaded = AutoRouter.from_pretrained(tmp_path / "again")
    np.testing.assert_allclose(loaded.scores(tiny.QUERIES), again.scores(tiny.QUERIES), atol=1e-5)
    assert not np.allclose(again.scores(tiny.QUERIES), router.scores(tiny.QUERIES), atol=1e-4)


@trained_kinds
def test_the_domains_own_expert_is_scored_highest(router):
    assert [router.experts[i] for i in router.scores(tiny.QUERIES).argmax(axis=1)] == list(tiny.EXPERTS)


@pytest.mark.parametrize("router", ["bert", "mlp", "knn", "fast"], indirect=True)
def test_adding_needs_the_new_experts_outcomes_alone(router, outcomes):
    added = router.remove_expert("math").add_expert("math", outcomes.of(("math",)))

    assert added.scores(tiny.QUERIES)[:, 2].argmax() == 2
    with pytest.raises(OutcomeTableError, match="no outcomes of poetry"):
        router.add_expert("poetry", outcomes)


@pytest.mark.parametrize("router", ["soft"], indirect=True)
def test_adding_to_a_softmax_needs_all_experts_outcomes(router, outcomes):
    with pytest.raises(OutcomeTableError, match="no outcomes of code, facts"):
        router.remove_expert("math").add_expert("math", outcomes.of(("math",)))


@trained_kinds
def test_scores_do_not_depend_on_the_rest_of_the_batch(router, outcomes, tmp_path):
    router.save_pretrained(tmp_path / "router")
    full = type(router).from_pretrained(tmp_path / "router", precision=router.precisions[0])
    texts = [*outcomes.queries[:40], "please " + "python " * 200]

    alone = np.concatenate([full.scores([text]) for text in texts])

    np.testing.assert_allclose(full.scores(texts), alone, atol=1e-5)


@trained_kinds
def test_threads_share_a_router(router, outcomes):
    expected = router.scores(outcomes.queries[:1])

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: router.scores(outcomes.queries[:1]), range(64)))

    assert all((scores == expected).all() for scores in found)


@every_kind
def test_a_single_string_and_what_is_no_string_are_refused(router):
    with pytest.raises(ConfigurationError, match="list of strings"):
        router.scores("please python")
    with pytest.raises(ConfigurationError, match=r"queries\[1\] is int"):
        router.scores(["please", 3])


@trained_kinds
def test_text_that_is_no_utf8_and_an_empty_one_are_scored(router):
    assert np.isfinite(router.scores(["python \ud800 loop", "", "\x00"])).all()


@pytest.mark.parametrize("name", ["bert", "soft"])
def test_torch_and_onnx_agree_in_fp32(name, outcomes, request):
    directory = request.getfixturevalue(f"{name}_directory")
    texts = [*outcomes.queries[:50], "", "please " + "seven " * 300]

    torch, onnx = (BertRouter.from_pretrained(directory, engine=e, precision="fp32") for e in ("torch", "onnx"))

    np.testing.assert_allclose(torch.scores(texts), onnx.scores(texts), atol=1e-4)


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
    changed = changed.add_expert("all", everything(outcomes))
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


def test_of_a_long_query_the_head_and_the_tail_are_read(tiny_encoder):
    tokenizer = QueryTokenizer.load(tiny_encoder, 8)
    short, long = tokenizer.ids(["python", "python " * 9 + "war " * 5000 + "seven " * 9])

    python, seven = (tokenizer.ids([word])[0][1] for word in ("python", "seven"))
    assert len(short) == 3
    assert long == [2, python, python, python, seven, seven, seven, 3]
    assert tokenizer.ids(["python " * 9 + "war " * 5000 + "seven " * 9]) == [long]


def test_one_nearest_neighbour_takes_over_its_outcomes(knn_directory, outcomes):
    knn = KNNRouter.from_pretrained(knn_directory, precision="fp32")
    settings = {"neighbours": 1, "weights": "uniform"}
    config = RouterConfig(kind="knn", experts=knn.config.experts, max_length=16, settings=settings)
    one = KNNRouter.fit(config, knn._encoder, knn.features(outcomes.queries), outcomes.scores, source=knn_directory)

    np.testing.assert_allclose(one.scores(outcomes.queries[:20]), outcomes.scores[:20], atol=2e-3)


def test_a_tie_of_neighbours_goes_to_the_expert_that_is_better_on_the_whole(knn_directory):
    knn = KNNRouter.from_pretrained(knn_directory, precision="fp32")
    texts = ("please python loop", "please river war", "please king planet")
    scores = np.array([[1, 1], [0, 1], [0, 1]], dtype=np.float32)
    config = RouterConfig(
        kind="knn",
        experts=(ExpertFacts(name="a"), ExpertFacts(name="b")),
        max_length=16,
        settings={"neighbours": 1, "weights": "uniform"},
    )

    one = KNNRouter.fit(config, knn._encoder, knn.features(texts), scores, source=knn_directory)

    assert one.scores(texts[:1]).argmax() == 1


def test_near_neighbours_weigh_more():
    angles = np.array([0.1, 1.2, 1.3])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    memory = Memory(("a", "b"), Search.over(embeddings), np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32))
    query = np.array([[1, 0]], dtype=np.float32)

    assert memory.means(query, 3, by_distance=False)[0, 0] == pytest.approx(1 / 3, abs=1e-3)
    weights = np.exp(np.cos(angles) / 0.2)
    assert memory.means(query, 3, by_distance=True)[0, 0] == pytest.approx(weights[0] / weights.sum(), abs=1e-3)
    assert memory.means(query, 1, by_distance=True)[0, 0] == pytest.approx(1, abs=1e-3)


def test_many_vectors_are_searched_by_a_graph_that_finds_the_same_and_is_saved(tmp_path, monkeypatch):
    pytest.importorskip("usearch", reason="the search extra is not installed")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:50]
    few = Search.over(vectors)
    monkeypatch.setattr("torouter.routers.neighbour_search.LARGE", 1000)
    monkeypatch.setattr("torouter.routers.neighbour_search._ADDED", 600)

    many = Search.over(vectors)
    many.save(tmp_path, 0)
    again = Search.load(tmp_path, 0, vectors)

    few.save(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["index_0.usearch"]
    exact, cosines = few.nearest(queries, 10)
    for search in (many, again):
        found, near = search.nearest(queries, 10)
        shared = [len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)]
        assert sum(shared) >= 0.98 * exact.size
        np.testing.assert_allclose(np.sort(near)[:, -1], np.sort(cosines)[:, -1], atol=1e-5)
    with pytest.raises(CheckpointError, match="does not fit the 1999"):
        Search.load(tmp_path, 0, vectors[1:])
    (tmp_path / "index_0.usearch").write_bytes(b"none")
    with pytest.raises(CheckpointError, match="damaged"):
        Search.load(tmp_path, 0, vectors)


def test_a_router_with_a_graph_is_loaded_by_a_fresh_process(knn_directory, outcomes, tmp_path, monkeypatch):
    pytest.importorskip("usearch", reason="the search extra is not installed")
    monkeypatch.setattr("torouter.routers.neighbour_search.LARGE", 50)
    grown = AutoRouter.from_pretrained(knn_directory).remove_expert("math").add_expert("math", outcomes)
    grown.save_pretrained(tmp_path / "grown")
    assert (tmp_path / "grown" / "index_1.usearch").is_file()
    code = "import sys; from torouter import AutoRouter; AutoRouter.from_pretrained(sys.argv[1]).scores(['a'])"
    subprocess.run([sys.executable, "-c", code, tmp_path / "grown"], check=True)


def test_chance_is_the_same_for_a_text_and_another_for_a_seed():
    first, again, other = RandomRouter.of("ab"), RandomRouter.of("ab"), RandomRouter.of("ab", seed=1)

    assert (first.scores(["x", "y"]) == again.scores(["x", "y"])).all()
    assert (first.scores(["x"]) != other.scores(["x"])).all()
    many = first.scores([str(number) for number in range(2000)]).argmax(axis=1).mean()
    assert many == pytest.approx(0.5, abs=0.05)


def test_the_oracle_refuses_a_text_it_has_no_outcome_of(outcomes):
    with pytest.raises(OutcomeTableError, match=r"queries\[1\]"):
        OracleRouter.fit(outcomes).scores([outcomes.queries[0], "never seen"])


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


def test_serving_loads_neither_torch_nor_transformers(bert_directory, knn_directory):
    script = (
        "import sys\n"
        "import torouter\n"
        "bare = {'numpy', 'onnxruntime', 'tokenizers', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not bare, bare\n"
        f"for directory in ({str(bert_directory)!r}, {str(knn_directory)!r}):\n"
        "    router = torouter.AutoRouter.from_pretrained(directory)\n"
        "    router.remove_expert('code').scores(['please python'])\n"
        "heavy = {'torch', 'transformers', 'pandas', 'pyarrow', 'onnx', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_public_names_are_there():
    import torouter

    nameless = {"__version__", "DispatchEvent"}  # a text and a union of types
    assert all(getattr(torouter, name).__name__ == name for name in set(torouter.__all__) - nameless)
    assert MLPRouter.kind == "mlp"
    with pytest.raises(AttributeError, match="poem"):
        torouter.poem  # noqa: B018


def everything(outcomes: OutcomeMatrix) -> OutcomeMatrix:
    """The same queries with one more expert, `all`, that is middling everywhere."""
    column = np.full((len(outcomes), 1), 0.5, dtype=np.float32)
    return OutcomeMatrix(outcomes.queries, (*outcomes.experts, "all"), np.hstack([outcomes.scores, column]))


def test_a_matrix_that_does_not_fit_is_refused():
    with pytest.raises(OutcomeTableError, match=r"shape \(1, 1\)"):
        OutcomeMatrix(("q",), ("a", "b"), np.zeros((1, 1)))
    with pytest.raises(OutcomeTableError, match="is a duplicate"):
        OutcomeMatrix(("q",), ("a", "a"), np.zeros((1, 2)))

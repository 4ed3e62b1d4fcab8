"""What single kinds of router make of a query: nearest neighbours, head and tail, chance, the oracle's outcomes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from torouter import AutoRouter, KNNRouter, OracleRouter, RandomRouter
from torouter.errors import CheckpointError, OutcomeTableError
from torouter.routers.config import ExpertFacts, RouterConfig
from torouter.routers.encoders.tokenizer import QueryTokenizer
from torouter.routers.knn import Memory
from torouter.routers.neighbour_search import Search
from torouter.routers.outcome_matrix import OutcomeMatrix


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


def test_a_matrix_that_does_not_fit_is_refused():
    with pytest.raises(OutcomeTableError, match=r"shape \(1, 1\)"):
        OutcomeMatrix(("q",), ("a", "b"), np.zeros((1, 1)))
    with pytest.raises(OutcomeTableError, match="is a duplicate"):
        OutcomeMatrix(("q",), ("a", "a"), np.zeros((1, 2)))

"""What every kind of router has to do: score, be saved and loaded, and let experts come and go."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support import tiny
from torouter import AutoRouter, BertRouter, BestSingleRouter, MLPRouter, OracleRouter, RandomRouter, Router
from torouter.errors import ConfigurationError, OutcomeTableError
from torouter.routers.outcome_matrix import OutcomeMatrix

KINDS = ("bert", "soft", "mlp", "knn", "fast", "random", "best-single", "oracle")
TRAINED = ("bert", "soft", "mlp", "knn", "fast")


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
    added = router.add_expert("all", tiny.everything(outcomes))
    added.save_pretrained(tmp_path / "added")
    again = AutoRouter.from_pretrained(tmp_path / "added")

    assert added.experts == again.experts == (*tiny.EXPERTS, "all")
    np.testing.assert_allclose(again.scores(outcomes.queries[:6]), added.scores(outcomes.queries[:6]), atol=1e-5)
    with pytest.raises(ConfigurationError, match="knows an expert 'all' already"):
        added.add_expert("all", tiny.everything(outcomes))


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

"""An expert's own tokenizer decides whether an input fits into its window; without one the estimate does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split, WhitespaceSplit

from langchain_torouter import RoutedChatModel
from llamaindex_torouter import RoutedLLM
from tests.support.word_router import WordRouter
from torouter.errors import ConfigurationError
from torouter.experts import Expert, ExpertPool
from torouter.routing.decision import RouteDecision
from torouter.routing.policy import RoutingPolicy
from torouter.routing.requirements import Requirements, estimate_tokens
from torouter.runtime.routed_experts import RoutedExperts, RouteQuery
from torouter.runtime.token_counts import ExpertTokenizers

URL = "http://127.0.0.1:9"  # never asked
Route = Callable[..., RouteDecision]


@pytest.fixture(params=[RoutedChatModel, RoutedLLM])
def adapter(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], Sequence[str]]]:
    with caplog.at_level(logging.WARNING, logger="torouter.runtime.token_counts"):
        yield lambda: [r.getMessage() for r in caplog.records if r.name == "torouter.runtime.token_counts"]


def words(directory: Path) -> str:
    """A tokenizer for which each word is one token, however long; its directory."""
    return saved(directory, WhitespaceSplit())


def characters(directory: Path) -> str:
    """A tokenizer for which each character is one token; its directory."""
    return saved(directory, Split("", "isolated"))


def saved(directory: Path, pieces: Any) -> str:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pieces
    tokenizer.enable_truncation(8)  # as many tokenizer.json files say; the length must be the whole text's
    tokenizer.enable_padding(length=512)
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    return str(directory)


def route_of(adapter: Any, **code: Any) -> Route:
    experts = {"code": {"url": URL, **code}, "math": {"url": URL}}
    return adapter(router=WordRouter.named({"code": 0.6, "math": 0.5}), experts=experts).route  # type: ignore[no-any-return]


def test_what_the_tokenizer_finds_short_is_sent_though_the_estimate_is_too_long(adapter: Any, tmp_path: Path) -> None:
    text = "donaudampfschifffahrtsgesellschaft " * 90
    assert estimate_tokens(text) > 100
    assert route_of(adapter, context_window=100)(text, max_tokens=10).ranking == ("math",)
    route = route_of(adapter, context_window=100, tokenizer=words(tmp_path))
    assert route(text, max_tokens=10).ranking == ("code", "math")
    assert route(text, max_tokens=11).ranking == ("math",)


def test_what_the_tokenizer_finds_too_long_is_not_sent_though_the_estimate_is_short(
    adapter: Any, tmp_path: Path
) -> None:
    text = "abcdefghi " * 10
    assert estimate_tokens(text) < 20
    file = Path(characters(tmp_path)) / "tokenizer.json"
    assert route_of(adapter, context_window=100)(text, max_tokens=1).expert == "code"
    assert route_of(adapter, context_window=100, tokenizer=str(file))(text, max_tokens=1).ranking == ("math",)
    assert route_of(adapter, context_window=101, tokenizer=str(file))(text, max_tokens=1).expert == "code"


def test_the_experts_prefix_counts_too(adapter: Any, tmp_path: Path) -> None:
    prefix = [
        {"role": "system", "content": "one two three"},
        {"role": "user", "content": [{"type": "text", "text": "four five"}, {"type": "image_url", "image_url": {}}]},
    ]
    text = "six seven"
    for window, first in ((8, "code"), (7, "math")):
        route = route_of(adapter, context_window=window, tokenizer=words(tmp_path), prefix=prefix)
        assert route(text, max_tokens=1).expert == first


def test_prices_follow_the_count(adapter: Any, tmp_path: Path) -> None:
    route = route_of(adapter, context_window=60, tokenizer=words(tmp_path), input_price=1000.0)
    assert route("incomprehensibilities " * 50, max_tokens=1).prices["code"] == pytest.approx(50)


def test_a_tokenizer_that_cannot_be_used_is_told_once_and_the_estimate_decides(
    adapter: Any, tmp_path: Path, warnings: Callable[[], Sequence[str]]
) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}", encoding="utf-8")
    silent = Tokenizer(WordLevel({}, unk_token="[UNK]"))  # raises at the first word
    silent.save(str(tmp_path / "silent.json"))
    for number, name in enumerate((str(broken), str(tmp_path / "silent.json"), str(tmp_path / "none.json")), 1):
        route = route_of(adapter, context_window=100, tokenizer=name)
        assert route("secret words " * 200).ranking == ("math",)
        assert route("secret " * 50).ranking == ("code", "math")
        assert len(warnings()) == number
        warning = warnings()[-1]
        assert "'code'" in warning
        assert repr(name) in warning
        assert "give the path" in warning
        assert "secret" not in warning


def test_an_input_that_must_fit_loads_nothing(
    adapter: Any, tmp_path: Path, warnings: Callable[[], Sequence[str]]
) -> None:
    route = route_of(adapter, context_window=100, tokenizer=str(tmp_path / "none.json"))
    assert route("x" * 90, max_tokens=10).expert == "code"
    assert route_of(adapter, tokenizer=str(tmp_path / "none.json"))("x" * 9000).expert == "code"  # no window known
    assert not warnings()
    route("x" * 91, max_tokens=10)
    assert warnings()


async def test_the_asynchronous_decision_counts_too(tmp_path: Path) -> None:
    expert = Expert(name="code", url=URL, context_window=20, tokenizer=characters(tmp_path))
    experts = RoutedExperts(WordRouter.named({"code": 0.6, "math": 0.5}), _pool(expert))
    query = RouteQuery(text="Hi", requirements=Requirements(input_tokens=1), inputs=("x" * 21,))
    assert (await experts.adecide(query)).ranking == experts.decide(query).ranking == ("math",)


def test_a_tokenizer_is_loaded_once_for_all_experts_that_name_it(tmp_path: Path) -> None:
    name = words(tmp_path)
    experts = [
        Expert(name="a", tokenizer=name),
        Expert(name="b", tokenizer=name, prefix=({"role": "system", "content": "c d"},)),
    ]
    tokenizers = ExpertTokenizers()
    assert tokenizers.counts(experts, ["x y", "z"]) == {"a": 3, "b": 5}
    (tmp_path / "tokenizer.json").unlink()
    assert tokenizers.counts(experts, ["x", "\ud800 y"]) == {"a": 3, "b": 5}  # a lone surrogate is one sign


def test_each_expert_is_measured_by_its_own_count() -> None:
    experts = _pool(Expert(name="code", context_window=10))
    scores = {"code": 0.6, "math": 0.5}
    decide = RoutingPolicy().decide
    assert decide(scores, experts, requirements=Requirements(input_tokens=11, counted={"code": 10})).expert == "code"
    assert decide(scores, experts, requirements=Requirements(input_tokens=1, counted={"code": 11})).expert == "math"
    assert decide(scores, experts, requirements=Requirements(input_tokens=11, counted={"math": 1})).expert == "math"


@pytest.mark.parametrize("value", ["", 7])
def test_a_tokenizer_is_named_by_a_string(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="'code': tokenizer="):
        Expert(name="code", tokenizer=value)


def _pool(code: Expert) -> ExpertPool:
    return ExpertPool([code, Expert(name="math", url=URL)])

"""Experts and pools: what is accepted, and how a wrong entry is reported."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from torouter import Expert, ExpertPool
from torouter.errors import ConfigurationError


def test_one_or_several_urls_make_one_expert() -> None:
    expert = Expert(name="code", url="http://a:8080/", urls=("http://b:8080", "http://a:8080"))
    assert expert.url == "http://a:8080"
    assert Expert(name="code", urls=["http://a:8080", "http://b:8080"]).urls == ("http://a:8080", "http://b:8080")  # type: ignore[arg-type]  # YAML gives a list


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "127.0.0.1:8080"),
        ("url", "ftp://host"),
        ("url", "http://host:99999"),
        ("urls", "http://host"),
        ("api", "grpc"),
        ("model", ""),
        ("input_price", -1),
        ("output_price", float("nan")),
        ("output_price", "cheap"),
        ("context_window", 0),
        ("context_window", 1.5),
        ("abilities", ["fly"]),
        ("abilities", "tools"),
        ("tags", [1]),
        ("prefix", "You are a poet."),
        ("prefix", [{"role": "poet", "content": "x"}]),
        ("parameters", ["temperature"]),
    ],
)
def test_an_error_about_a_wrong_value_names_expert_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Expert(**{"name": "poet", field: value})
    message = str(caught.value)
    assert "'poet'" in message
    assert field.rstrip("s") in message
    shown = value[0] if isinstance(value, list) else value
    assert repr(shown) in message


def test_a_yaml_file_gives_the_pool_it_describes(tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    file.write_text(
        """
experts:
  - name: code
    urls: [http://a:8080, http://b:8080]
    input_price: 0.1
    output_price: 0.2
    context_window: 4096
    abilities: [tools]
    tags: [edge]
    api_key_env: CODE_KEY
    adapter: my-lora
    prefix:
      - {role: system, content: You write code.}
    parameters: {temperature: 0, stop: ["\\n\\n"]}
  - {name: any, url: http://c, api: openai, model: gpt}
""",
        encoding="utf-8",
    )
    pool = ExpertPool.from_yaml(file)
    assert pool.names == ("code", "any")
    code = pool["code"]
    assert code.urls == ("http://a:8080", "http://b:8080")
    assert code.abilities == {"tools"}
    assert code.parameters["stop"] == ["\n\n"]
    assert pool["any"].served_model == "gpt"


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("experts:\n  - {name: code, url: http://a, colour: red}", r"'code'.*'colour'.*known fields"),
        ("experts:\n  - {name: code, url: http://a}\n  - {name: code, url: http://b}", r"'code' is a duplicate"),
        ("experts:\n  - {name: code, url: nowhere}", r"'code'.*url='nowhere'"),
        ("experts:\n  - {name: code, url: http://a, input_price: -2}", r"'code'.*input_price=-2"),
        ("experts:\n  - {name: code}", r"'code'.*url is missing"),
        ("experts:\n  - {url: http://a}", r"without a name"),
        ("experts:\n  - code", r"entry 1 is not a mapping"),
        ("experts: []", r"the list is empty"),
        ("experts: {}", r"one key, `experts`"),
        ("- x", r"one key, `experts`"),
        ("experts: [", r"can't be read as YAML"),
    ],
)
def test_a_wrong_yaml_file_is_one_error_that_names_it(tmp_path: Path, text: str, pattern: str) -> None:
    file = tmp_path / "experts.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=pattern) as caught:
        ExpertPool.from_yaml(file)
    assert str(file) in str(caught.value)


def test_a_missing_yaml_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        ExpertPool.from_yaml(tmp_path / "none.yaml")


def test_a_pool_is_made_from_a_mapping_of_urls_fields_and_experts() -> None:
    pool = ExpertPool(
        {"a": "http://a", "b": {"url": "http://b", "output_price": 2}, "c": Expert(name="c", url="http://c")}
    )
    assert [expert.url for expert in pool.values()] == ["http://a", "http://b", "http://c"]
    with pytest.raises(ConfigurationError, match="'d' is listed under the name 'c'"):
        ExpertPool({"c": Expert(name="d", url="http://d")})


def test_the_error_about_an_unknown_name_lists_the_known_ones() -> None:
    pool = ExpertPool({"a": "http://a"})
    with pytest.raises(KeyError, match="no expert is called 'b'; the experts are a"):
        pool["b"]
    assert pool.get("b") is None


@pytest.mark.parametrize("key", ["sk-canary", SecretStr("sk-canary")])
def test_a_key_is_never_shown(key: Any) -> None:
    expert = Expert(name="a", url="http://a", api_key=key)
    assert expert.token() == "sk-canary"
    assert "canary" not in repr(expert)
    assert "canary" not in str(ExpertPool([expert])) + repr(dict(ExpertPool([expert])))


@pytest.mark.parametrize(
    "url",
    [
        "http://user:can/ary@host",
        "http://user:can/ary@host:port",
        "http://user:can/ary@[bad",
        "user:can/ary@host",
        "http://host?key=can/ary",
        "http://host#can/ary",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"'code': url=") as caught:
        Expert(name="code", url=url)
    assert "ary" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "experts:\n  - {name: code, api_key: {secret-token}",
        "experts:\n  - name: code\n    api_key: 'secret-token",
        "experts:\n  - name: code\n    api_key: !unknown secret-token",
        "experts:\n  - [name, code, api_key, secret-token]",
    ],
)
def test_an_error_in_a_file_does_not_quote_the_line_which_may_hold_a_token(tmp_path: Path, text: str) -> None:
    file = tmp_path / "experts.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(str(file))) as caught:
        ExpertPool.from_yaml(file)
    assert "secret-token" not in "".join(traceback.format_exception(caught.value))


def test_an_entry_that_is_no_expert_is_not_quoted() -> None:
    for experts in ([{"name": "code", "api_key": "secret-token"}], {"code": ["http://host", "secret-token"]}):
        with pytest.raises(ConfigurationError) as caught:
            ExpertPool(experts)  # type: ignore[arg-type]
        assert "secret-token" not in str(caught.value)


@pytest.mark.parametrize("key", ["", SecretStr("")])
def test_an_empty_key_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="api_key"):
        Expert(name="a", url="http://a", api_key=key)


def test_the_key_is_read_from_the_environment_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    expert = Expert(name="a", url="http://a", api_key_env="SOME_KEY")
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="set the environment variable SOME_KEY"):
        expert.token()
    monkeypatch.setenv("SOME_KEY", "sk-canary")
    assert expert.token() == "sk-canary"
    with pytest.raises(ConfigurationError, match="not both"):
        Expert(name="a", url="http://a", api_key="k", api_key_env="SOME_KEY")  # type: ignore[arg-type]  # a str is taken


def test_the_fingerprint_follows_what_changes_answers_only() -> None:
    plain = ExpertPool({"a": "http://a"})
    assert ExpertPool({"a": {"url": "http://b", "api_key": "k"}}).fingerprint == plain.fingerprint
    assert ExpertPool({"a": {"url": "http://a", "adapter": "x"}}).fingerprint != plain.fingerprint
    assert ExpertPool({"a": {"url": "http://a", "parameters": {"seed": 1}}}).fingerprint != plain.fingerprint


def test_the_text_generation_client_removes_the_abilities_that_it_lacks() -> None:
    expert = Expert(name="old", url="http://x", client="text-generation", abilities=["tools", "json_schema", "images"])
    assert expert.abilities == {"json_schema"}


@pytest.mark.parametrize(
    "fields", [{"client": "text_generation"}, {"api": "openai"}, {"adapter": "lora"}], ids=["name", "api", "adapter"]
)
def test_a_client_that_can_not_serve_the_expert_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="client="):
        Expert(**{"name": "old", "url": "http://x", "client": "text-generation", **fields})

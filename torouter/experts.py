"""`Expert` and `ExpertPool`: the served models that a router chooses from, from Python or from `experts.yaml`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import numpy as np
import yaml
from numpy.typing import NDArray

from torouter.errors import ConfigurationError, UnknownExpertError
from torouter.secrets import Secret, SupportsSecret

Api = Literal["tgi", "openai"]
Client = Literal["native", "text-generation"]
Ability = Literal["tools", "json_schema", "images"]

APIS: tuple[Api, ...] = ("tgi", "openai")
CLIENTS: tuple[Client, ...] = ("native", "text-generation")
ABILITIES: frozenset[Ability] = frozenset(("tools", "json_schema", "images"))
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """One served model: where it is, what it costs and what it can do.

    Raises:
        ConfigurationError: A field has an invalid value; the message names expert, field, value and fix.
    """

    name: str
    """The name that router, traces and failover use; a router's scores are matched to experts by it."""
    url: str = ""
    """Base url of the server, with or without `/v1`. Empty only where the expert is a framework's own model."""
    urls: tuple[str, ...] = ()
    """All replicas' urls. `url` is the first of them."""
    api: Api = "tgi"
    """The dialect: "tgi", or "openai" for vLLM, SGLang, llama.cpp, `transformers serve` and the like."""
    client: Client = "native"
    """What sends the requests: torouter's own client, or that of the `text-generation` package (api "tgi" only). That
    one sends raw prompts only, so it removes the abilities "tools" and "images"."""
    model: str | None = None
    """Id of the served model. TGI needs none; vLLM refuses a request without it."""
    adapter: str | None = None
    """Id of a LoRA adapter that TGI has loaded. For an unknown id TGI's base model answers, without an error."""
    input_price: float | None = None
    """USD per million input tokens."""
    output_price: float | None = None
    """USD per million output tokens."""
    context_window: int | None = None
    """Most tokens of input and output together; None if unknown."""
    tokenizer: str | None = None
    """The tokenizer that counts an input against `context_window`: path of a tokenizer.json, a directory that holds
    one, or a Hub id. It is loaded when an input first comes near the window; without it lengths are estimated."""
    max_concurrency: int | None = None
    """Most requests at a time to each replica; None leaves it to the dispatcher's settings."""
    abilities: frozenset[Ability] = frozenset(("tools", "json_schema"))
    """What the expert can do beyond text: "tools", "json_schema", "images"."""
    tags: frozenset[str] = frozenset()
    """Free labels such as "edge" and "cloud", for policies."""
    api_key: Secret | None = None
    """Token, sent to this expert's own urls and nowhere else. Takes a str or a pydantic SecretStr."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the token, read at every call."""
    prefix: tuple[Mapping[str, Any], ...] = ()
    """Messages that precede those of every request: a system prompt and few-shot examples."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Default request parameters (temperature, max_tokens, stop, ...); a call's own override them."""

    def __post_init__(self) -> None:
        self._check_name()
        urls = self._checked_urls()
        set_field = object.__setattr__  # the dataclass is frozen, and this is still its construction
        set_field(self, "urls", urls)
        set_field(self, "url", urls[0] if urls else "")
        if self.api not in APIS:
            raise self._wrong("api", self.api, f"use one of {', '.join(APIS)}")
        if self.client not in CLIENTS:
            raise self._wrong("client", self.client, f"use one of {', '.join(CLIENTS)}")
        for price in ("input_price", "output_price"):
            set_field(self, price, self._checked_price(price))
        self._check_whole("context_window", "give a whole number of tokens above zero")
        self._check_whole("max_concurrency", "give a whole number of requests above zero, or leave it out")
        abilities = self._checked_words("abilities", allowed=ABILITIES)
        if self.client == "text-generation":
            if self.api != "tgi" or self.adapter:
                raise self._wrong("client", self.client, 'give api "tgi" and no adapter, or use "native"')
            abilities -= {"tools", "images"}
        set_field(self, "abilities", abilities)
        set_field(self, "tags", self._checked_words("tags"))
        set_field(self, "api_key", self._checked_key())
        for text in ("model", "adapter", "tokenizer", "api_key_env"):
            value = getattr(self, text)
            if value is not None and (not isinstance(value, str) or not value):
                raise self._wrong(text, value, "give a non-empty string, or leave it out")
        set_field(self, "prefix", self._checked_prefix())
        if not isinstance(self.parameters, Mapping):
            raise self._wrong("parameters", self.parameters, "give a mapping such as {temperature: 0, max_tokens: 256}")
        set_field(self, "parameters", MappingProxyType(dict(self.parameters)))

    @property
    def served_model(self) -> str:
        """The `model_name` in metadata when the server does not name its model."""
        return self.adapter or self.model or self.name

    def token(self) -> str | None:
        """The token to send, None if the expert needs none.

        Raises:
            ConfigurationError: `api_key_env` names a variable that is not set.
        """
        if self.api_key is not None:
            return self.api_key.get_secret_value()
        if self.api_key_env is None:
            return None
        value = os.environ.get(self.api_key_env)
        if not value:
            raise self._wrong("api_key_env", self.api_key_env, f"set the environment variable {self.api_key_env}")
        return value

    @classmethod
    def from_mapping(cls, entry: Mapping[str, Any]) -> Expert:
        """Build an expert from plain data such as one entry of `experts.yaml`.

        Raises:
            ConfigurationError: An unknown key, a missing name or a wrong value.
        """
        known = {f.name for f in fields(cls)}
        name = entry.get("name")
        for key in entry:
            if key not in known:
                msg = f"expert {name!r}: unknown field {key!r}; known fields are {', '.join(sorted(known))}"
                raise ConfigurationError(msg)
        if "name" not in entry:
            msg = f"an expert without a name (its fields: {', '.join(map(str, entry)) or 'none'}): add `name`"
            raise ConfigurationError(msg)
        return cls(**cast("dict[str, Any]", dict(entry)))

    def _wrong(self, name: str, value: object, fix: str) -> ConfigurationError:
        return ConfigurationError(f"expert {self.name!r}: {name}={value!r} can't be used: {fix}")

    def _check_name(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise self._wrong("name", self.name, "give a non-empty string")

    def _checked_urls(self) -> tuple[str, ...]:
        if isinstance(self.urls, str) or not isinstance(self.urls, Sequence):
            raise self._wrong("urls", self.urls, "give a list of urls, or a single one as `url`")
        urls = tuple(dict.fromkeys((self.url, *self.urls) if self.url else self.urls))
        return tuple(self._checked_url(url) for url in urls)

    def _checked_url(self, url: object) -> str:
        fix = "give a full address such as http://127.0.0.1:8080"
        if not isinstance(url, str):
            raise self._wrong("url", url, fix)
        # The message must not repeat a password or token that is part of the url.
        shown = re.sub(r"[?#].*", "?...", re.sub(r"^(\w+://)?.*@", r"\1...@", url, flags=re.DOTALL), flags=re.DOTALL)
        try:
            parts = urlsplit(url)
            port_ok = parts.port is None or parts.port > 0
        except ValueError:
            raise self._wrong("url", shown, fix) from None
        if parts.username or parts.password:
            raise self._wrong("url", shown, "put the token in api_key or api_key_env")
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok or parts.query or parts.fragment:
            raise self._wrong("url", shown, fix)
        return url.rstrip("/")

    def _checked_price(self, name: str) -> float | None:
        value = getattr(self, name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise self._wrong(name, value, "give USD per million tokens, zero or more")
        return float(value)

    def _check_whole(self, name: str, fix: str) -> None:
        value = getattr(self, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value <= 0):
            raise self._wrong(name, value, fix)

    def _checked_words(self, name: str, allowed: frozenset[str] | None = None) -> frozenset[str]:
        value = getattr(self, name)
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise self._wrong(name, value, "give a list of strings")
        words = list(value)
        for word in words:
            if not isinstance(word, str) or (allowed is not None and word not in allowed):
                fix = f"use {', '.join(sorted(allowed))}" if allowed else "give a list of strings"
                raise self._wrong(name, word, fix)
        return frozenset(words)

    def _checked_key(self) -> Secret | None:
        key: object = self.api_key
        if key is None or isinstance(key, Secret):
            return key
        if self.api_key_env is not None:
            raise self._wrong("api_key_env", self.api_key_env, "give either api_key or api_key_env, not both")
        if isinstance(key, SupportsSecret):
            key = key.get_secret_value()
        if isinstance(key, str) and key:
            return Secret(key)
        raise self._wrong("api_key", Secret(""), "give a non-empty string or SecretStr")

    def _checked_prefix(self) -> tuple[Mapping[str, Any], ...]:
        if isinstance(self.prefix, (str, Mapping)) or not isinstance(self.prefix, Sequence):
            raise self._wrong("prefix", self.prefix, "give a list of messages such as {role: system, content: ...}")
        for message in self.prefix:
            if not isinstance(message, Mapping) or message.get("role") not in ROLES or "content" not in message:
                raise self._wrong("prefix", message, f"each message needs a role ({', '.join(ROLES)}) and a content")
        return tuple(MappingProxyType(dict(message)) for message in self.prefix)


class ExpertPool(Mapping[str, Expert]):
    """The experts of one application by name, in the order given.

    Args:
        experts: An ExpertPool, the path of a YAML file, a sequence of `Expert`s, or a mapping from name to a url, an
            `Expert` (whose name the key must equal) or a mapping of its fields.

    Raises:
        ConfigurationError: The pool is empty, a name is duplicate, or an entry is invalid.
    """

    def __init__(self, experts: Experts) -> None:
        if isinstance(experts, (str, os.PathLike)):
            entries: Iterable[Expert] = ExpertPool.from_yaml(experts).values()
        elif isinstance(experts, Mapping):
            entries = [_coerced(name, value) for name, value in experts.items()]
        else:
            entries = experts
        self._experts: dict[str, Expert] = {}
        for expert in entries:
            if not isinstance(expert, Expert):
                msg = f"experts: a {type(expert).__name__} is not an Expert; give Expert(name=..., url=...)"
                raise ConfigurationError(msg)
            if expert.name in self._experts:
                msg = f"experts: the name {expert.name!r} is a duplicate: give each expert a name of its own"
                raise ConfigurationError(msg)
            self._experts[expert.name] = expert
        if not self._experts:
            msg = "experts: the list is empty; give at least one Expert(name=..., url=...)"
            raise ConfigurationError(msg)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> ExpertPool:
        """Read `experts.yaml`: a mapping with one key, `experts`, a list of entries with `Expert`'s fields.

        Raises:
            ConfigurationError: The file can't be read or is wrong; the message names file, expert, field and value.
        """
        file = Path(path)
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            msg = f"{file}: no such file; give the path of an experts.yaml"
            raise ConfigurationError(msg) from None
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{file}: can't be read: {error}"
            raise ConfigurationError(msg) from error
        except yaml.YAMLError as error:
            # Its message quotes the line, which may hold a token.
            mark = getattr(error, "problem_mark", None)
            where = "" if mark is None else f" from line {mark.line + 1}, column {mark.column + 1} on"
            msg = f"{file}: can't be read as YAML{where} ({type(error).__name__})"
            raise ConfigurationError(msg) from None
        if not isinstance(document, Mapping) or not isinstance(document.get("experts"), list) or len(document) != 1:
            msg = f"{file}: the file must hold one key, `experts`, with a list of experts"
            raise ConfigurationError(msg)
        try:
            experts = []
            for number, entry in enumerate(document["experts"], 1):
                if not isinstance(entry, Mapping):
                    msg = f"entry {number} is not a mapping: give name, url and the other fields"
                    raise ConfigurationError(msg)
                experts.append(Expert.from_mapping(entry))
                if not experts[-1].urls:
                    msg = f"expert {experts[-1].name!r}: url is missing; give the address of its server"
                    raise ConfigurationError(msg)
            return cls(experts)
        except ConfigurationError as error:
            msg = f"{file}: {error}"
            raise ConfigurationError(msg) from None

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self._experts)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every field that changes the experts' answers; urls and keys do not."""
        facts = [
            (
                *(expert.name, expert.model, expert.adapter),
                *([dict(message) for message in expert.prefix], sorted(map(str, expert.parameters.items()))),
            )
            for expert in self._experts.values()
        ]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    @cached_property
    def abilities(self) -> frozenset[Ability]:
        """What every expert of the pool can do."""
        return frozenset(ABILITIES).intersection(*(expert.abilities for expert in self.values()))

    @cached_property
    def smallest_window(self) -> int | None:
        """The smallest known context window, None if no expert's is known."""
        return min((e.context_window for e in self.values() if e.context_window is not None), default=None)

    @cached_property
    def countable(self) -> tuple[Expert, ...]:
        """The experts whose own tokenizer can count an input against their context window."""
        return tuple(e for e in self.values() if e.tokenizer is not None and e.context_window is not None)

    @cached_property
    def prices(self) -> NDArray[np.float64]:
        """USD per million input and output tokens, shape (2, number of experts); NaN for an unknown price."""
        return np.array([[e.input_price for e in self.values()], [e.output_price for e in self.values()]], dtype=float)

    def values(self) -> ValuesView[Expert]:
        # Mapping's own view looks up each name, which for hundreds of experts costs more than the rest of a decision.
        return self._experts.values()

    def items(self) -> ItemsView[str, Expert]:
        return self._experts.items()

    def __getitem__(self, name: str) -> Expert:
        try:
            return self._experts[name]
        except KeyError:
            msg = f"no expert is called {name!r}; the experts are {', '.join(self._experts)}"
            raise UnknownExpertError(msg) from None

    def __contains__(self, name: object) -> bool:
        return name in self._experts

    def __iter__(self) -> Iterator[str]:
        return iter(self._experts)

    def __len__(self) -> int:
        return len(self._experts)

    def __repr__(self) -> str:
        return f"ExpertPool({', '.join(self._experts)})"


Experts = ExpertPool | str | os.PathLike[str] | Sequence[Expert] | Mapping[str, Any]
"""What `ExpertPool` takes; as values of a mapping, an adapter takes its framework's models too."""


def _coerced(name: str, value: object) -> Expert:
    if isinstance(value, str):
        return Expert(name=name, url=value)
    if isinstance(value, Mapping):
        return Expert.from_mapping({"name": name, **value})
    if isinstance(value, Expert):
        if value.name != name:
            msg = f"expert {value.name!r} is listed under the name {name!r}: use the same name for both"
            raise ConfigurationError(msg)
        return value
    msg = f"expert {name!r}: a {type(value).__name__} can't be used: give a url, an Expert or a mapping of its fields"
    raise ConfigurationError(msg)

"""LangChain's own standard tests against scripted TGI servers, every capability that our models have switched on."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_torouter import ChatTGI, RoutedChatModel
from tests.support.scripted_tgi import ScriptedTGI
from torouter.experts import Expert
from torouter.routers.baselines import BestSingleRouter

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IMAGES = frozenset(("tools", "json_schema", "images"))


@pytest.fixture(scope="module", autouse=True)
def _servers(request: pytest.FixtureRequest) -> Iterator[None]:
    """The servers whose addresses the properties below need; standard tests ask a property, not a fixture."""
    with ScriptedTGI(model_id="test/code") as code, ScriptedTGI(model_id="test/math") as math:
        _Servers.code, _Servers.math = code, math
        yield


@pytest.fixture(autouse=True)
def _pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard image tests fetch their picture from the internet; here they get a tiny one from this file."""
    monkeypatch.setattr(httpx, "get", lambda url, **_: httpx.Response(200, content=PIXEL))


class _Servers:
    code: ScriptedTGI
    math: ScriptedTGI


class ChatTGICapabilities:
    """What ChatTGI is and can do, for both standard classes."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatTGI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": _Servers.code.url, "abilities": IMAGES}

    supports_image_inputs = True
    supports_image_urls = True
    supports_json_mode = True
    supports_anthropic_inputs = True
    supports_image_tool_message = True
    supports_model_override = True
    model_override_value = "my-adapter"


class RoutedCapabilities(ChatTGICapabilities):
    """What RoutedChatModel is and can do."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return RoutedChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "router": BestSingleRouter.of({"code": 0.9, "math": 0.6}),
            "experts": [
                Expert(name="code", url=_Servers.code.url, abilities=IMAGES),
                Expert(name="math", url=_Servers.math.url, abilities=IMAGES),
            ],
        }

    model_override_value = "math"


class TestChatTGIUnit(ChatTGICapabilities, ChatModelUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return (
            {"TGI_BASE_URL": "http://127.0.0.1:9", "TGI_API_KEY": "api-key"},
            {},
            {"base_url": "http://127.0.0.1:9", "api_key": "api-key"},
        )


class TestChatTGIIntegration(ChatTGICapabilities, ChatModelIntegrationTests):
    pass


class TestRoutedChatModelUnit(RoutedCapabilities, ChatModelUnitTests):
    pass


class TestRoutedChatModelIntegration(RoutedCapabilities, ChatModelIntegrationTests):
    pass

"""What docs/security.md promises: whom we talk to, what we read, and how much of it."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shutil
import ssl
from pathlib import Path

import numpy as np
import pytest

from tests.support.chat_requests import ASK, answer_text, whole_and_streamed
from tests.support.scripted_tgi import Fault, ScriptedTGI
from torouter import AutoRouter
from torouter.endpoints import TGIClient
from torouter.errors import CheckpointError, ExpertConnectionError, ExpertNotFoundError
from torouter.experts import Expert
from torouter.routers import checkpoint
from torouter.routers.baselines import BestSingleRouter

ROOT = Path(__file__).parents[2]
SOURCES = [
    file
    for package in ("torouter", "langchain_torouter", "llamaindex_torouter")
    for file in sorted((ROOT / package).rglob("*.py"))
]
CANARY = "canary-token-5e1d"

# Nobody's: a self-signed certificate for 127.0.0.1 and its key, made for this test alone.
CERTIFICATE = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgpYSvqExUdHuLe3RL
qvEGjmhgzJ9cXamUJEVyNW9zp4OhRANCAARFN2+qvlXyTFhcVjEmdreTg+OeX+VR
n6pvWc6VeAGR+NeIAmZHox1uRqo51VOLkyzSHKLVxJEuU2Cq1xfRp4Sd
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBkTCCATagAwIBAgIUJm1NFUHsEwCzmyR4b611n2jRDmIwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyNDA4MjMyOVoYDzIxMjYxMDMx
MDgyMzI5WjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARFN2+qvlXyTFhcVjEmdreTg+OeX+VRn6pvWc6VeAGR+NeIAmZHox1u
Rqo51VOLkyzSHKLVxJEuU2Cq1xfRp4Sdo2QwYjAdBgNVHQ4EFgQUAiBz5ipr8Ry2
FPOHhLUTSjdLksQwHwYDVR0jBBgwFoAUAiBz5ipr8Ry2FPOHhLUTSjdLksQwDwYD
VR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0kAMEYC
IQCGPGRARQVsxtoGos3DMS1k/Oau3cc2Srw082rFQ5qXxgIhAPz6W7HsCcXe4sR5
o9GlWyertg1xfJ2UDRuLDa/ltPDD
-----END CERTIFICATE-----
"""


# Whom we talk to


@whole_and_streamed
async def test_a_server_whose_certificate_nobody_vouches_for_gets_neither_prompt_nor_token(
    tmp_path: Path, stream: bool
) -> None:
    pem = tmp_path / "server.pem"
    pem.write_text(CERTIFICATE)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    read: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        read.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = TGIClient(Expert(name="code", url=url, api_key=CANARY))
        with pytest.raises(ExpertConnectionError, match="certificate") as caught:
            await answer_text(client, stream=stream)
    assert CANARY not in str(caught.value)
    assert not any(read)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_refused_whatever_its_kind_and_target(tgi: ScriptedTGI, status: int) -> None:
    with ScriptedTGI() as other:
        for target in (
            f"{other.url}/v1/chat/completions",
            "/v1/chat/completions",
            "//127.0.0.1:9/",
            "file:///etc/passwd",
        ):
            tgi.script(Fault.bytes(status, {"location": target}, b""))
            with pytest.raises(ExpertNotFoundError, match="redirects"):
                await TGIClient(Expert(name="code", url=tgi.url, api_key=CANARY)).chat(ASK)
        assert other.requests == []
    assert len(tgi.requests) == 4


# What we read: a checkpoint may come from anybody


@pytest.fixture
def copied(bert_directory: Path, tmp_path: Path) -> Path:
    shutil.copytree(bert_directory, tmp_path / "router")
    return tmp_path / "router"


@pytest.mark.parametrize(
    "name", ["router.json", "config.json", "tokenizer.json", "model.safetensors", "model_int8.onnx", "model.onnx"]
)
def test_a_link_out_of_a_checkpoint_is_not_followed(copied: Path, tmp_path: Path, name: str) -> None:
    (copied / name).rename(tmp_path / "outside")
    (copied / name).symlink_to(tmp_path / "outside")
    precision = "fp32" if name == "model.onnx" else "int8"
    with pytest.raises(CheckpointError, match="leads out"):
        AutoRouter.from_pretrained(copied, precision=precision)


def test_saving_copies_no_file_that_a_link_leads_to(copied: Path, tmp_path: Path) -> None:
    """A router that is saved again, or pushed, would publish it."""
    (tmp_path / "private").write_text(CANARY)
    (copied / "vocab.txt").symlink_to(tmp_path / "private")
    router = AutoRouter.from_pretrained(copied)
    with pytest.raises(CheckpointError, match="leads out"):
        router.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_linked_directory_and_the_hubs_cache_are_read(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copied)
    experts = AutoRouter.from_pretrained(tmp_path / "link").experts
    snapshot, blobs = tmp_path / "models--o--r" / "snapshots" / "abc", tmp_path / "models--o--r" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(copied.iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert AutoRouter.from_pretrained(snapshot).experts == experts


@pytest.mark.parametrize("where", ["../outside.bin", "absolute", "link.bin"])
def test_a_graphs_external_data_stay_inside(copied: Path, tmp_path: Path, where: str) -> None:
    onnx = pytest.importorskip("onnx")
    outside = tmp_path / "outside.bin"
    outside.write_bytes(np.zeros(4, dtype=np.float32).tobytes())
    (copied / "link.bin").symlink_to(outside)
    weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=str(outside) if where == "absolute" else where)
    graph_input, graph_output = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("x", "features")
    )
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["features"])], "g", [graph_input], [graph_output], [weights]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (copied / "model_int8.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"can't be loaded by ONNX Runtime.*xternal data path"):
        AutoRouter.from_pretrained(copied, precision="int8")


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("router.json", checkpoint.MAX_TEXT_BYTES),
        ("config.json", checkpoint.MAX_TEXT_BYTES),
        ("tokenizer.json", checkpoint.MAX_TEXT_BYTES),
        ("model.safetensors", checkpoint.MAX_WEIGHT_BYTES),
        ("model_int8.onnx", checkpoint.MAX_WEIGHT_BYTES),
    ],
)
def test_a_file_beyond_its_cap_is_not_read(copied: Path, name: str, limit: int) -> None:
    with (copied / name).open("ab") as file:
        file.truncate(limit + 1)  # a sparse file: it takes no room
    with pytest.raises(CheckpointError, match=f"has {limit + 1} bytes, more than"):
        AutoRouter.from_pretrained(copied, precision="int8")


@pytest.mark.parametrize("name", ["router.json", "config.json"])
def test_json_that_is_nested_without_end_is_refused(copied: Path, name: str) -> None:
    (copied / name).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="not JSON"):
        AutoRouter.from_pretrained(copied)


def test_a_checkpoint_says_nothing_of_where_experts_are(tmp_path: Path) -> None:
    """Urls and tokens come from the application alone."""
    BestSingleRouter.of({"code": 0.5}).save_pretrained(tmp_path / "router")
    file = tmp_path / "router" / "router.json"
    document = json.loads(file.read_text())
    document["experts"][0] |= {"url": "http://elsewhere.example", "api_key_env": "HOME"}
    file.write_text(json.dumps(document))
    router = AutoRouter.from_pretrained(tmp_path / "router")
    assert "elsewhere" not in router.config.to_json() + repr(router.config)
    assert "HOME" not in router.config.to_json() + repr(router.config)


@pytest.mark.parametrize("model_type", ["bert", "unheard-of"])
def test_code_in_a_checkpoint_is_not_run(copied: Path, tmp_path: Path, model_type: str) -> None:
    (copied / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((copied / "config.json").read_text())
    config |= {
        "model_type": model_type,
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForSequenceClassification": "evil.Evil"},
    }
    (copied / "config.json").write_text(json.dumps(config))
    try:
        AutoRouter.from_pretrained(copied, engine="torch")
    except CheckpointError:
        assert model_type == "unheard-of"
    assert not (tmp_path / "ran").exists()


# What our own sources never do, and what the page says


def test_every_test_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    file, checked = Path(), 0
    for named_file, test in re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", page):
        if named_file:
            (file,) = (ROOT / "tests").rglob(named_file)
        if test:
            checked += 1
            assert f"def {test}(" in file.read_text(), f"{file}::{test}"
    assert checked > 20


def test_no_module_unpickles_evaluates_or_switches_checks_off() -> None:
    runs_code = ROOT / "torouter" / "outcomes" / "code_runner.py"  # answers that are code, in a closed process
    assert runs_code in SOURCES
    for file in SOURCES:
        if file == runs_code:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            assert _fault(node) is None, f"{file.relative_to(ROOT)}:{node.lineno}: {_fault(node)}"  # type: ignore[attr-defined]


def _fault(node: ast.AST) -> str | None:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
        return next((name for name in names if name.split(".")[0] in ("pickle", "dill", "marshal", "shelve")), None)
    if not isinstance(node, ast.Call):
        return None
    called = ast.unparse(node.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called in ("eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "joblib.load", "os.system"):
        return called
    if called.startswith("Auto") and called.endswith(".from_pretrained") and called != "AutoRouter.from_pretrained":
        return None if options.get("trust_remote_code") == "False" else f"{called} without trust_remote_code=False"
    switched = {"ssl": "False", "verify": "False", "verify_ssl": "False", "allow_pickle": "True", "shell": "True"}
    return next((name for name, value in switched.items() if options.get(name) == value), None)

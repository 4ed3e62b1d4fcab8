"""Fixtures that every test module may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.scripted_tgi import ScriptedTGI
from torouter.routers.outcome_matrix import OutcomeMatrix


@pytest.fixture
def tgi() -> Iterator[ScriptedTGI]:
    """A scripted TGI server of the newest version."""
    with ScriptedTGI() as server:
        yield server


@pytest.fixture
def outcomes() -> OutcomeMatrix:
    """The tiny table's outcomes, as the routers learn them."""
    return tiny.table().matrix()


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a real BERT of two layers."""
    return tiny.write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def tiny_embedding(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same encoder's sentence embeddings as ONNX graphs, which several routers can share."""
    from torouter.routers.encoders.pretrained import write_embedding

    directory = tmp_path_factory.mktemp("embedding")
    write_embedding(str(tiny_encoder), directory)
    return directory


@pytest.fixture(scope="session")
def bert_directory(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a BertRouter that learnt the tiny table by the per-expert objective."""
    return tiny.trained(tiny.training_arguments(tiny_encoder), tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def soft_directory(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a BertRouter that learnt the tiny table by the paper's objective."""
    return tiny.trained(tiny.training_arguments(tiny_encoder, objective="soft"), tmp_path_factory.mktemp("soft"))


@pytest.fixture(scope="session")
def mlp_directory(tiny_embedding: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of an MLPRouter."""
    return tiny.trained(
        tiny.training_arguments(tiny_embedding, router="mlp", epochs=40), tmp_path_factory.mktemp("mlp")
    )


@pytest.fixture(scope="session")
def knn_directory(tiny_embedding: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a KNNRouter."""
    return tiny.trained(tiny.training_arguments(tiny_embedding, router="knn"), tmp_path_factory.mktemp("knn"))


@pytest.fixture(scope="session")
def fast_directory(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a FastRouter that learnt from the outcomes alone."""
    how = tiny.training_arguments(tiny_encoder, router="fast", learning_rate=None, head_learning_rate=None)
    return tiny.trained(how, tmp_path_factory.mktemp("fast"))

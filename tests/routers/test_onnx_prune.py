"""Graphs without the work that nobody reads: their output is the same, and inner tensors are as short as can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from torouter.routers.encoders.onnx_prune import narrow

WIDTH = 4
STATES = np.random.default_rng(0).normal(size=(3, 5, WIDTH)).astype(np.float32)


def graph(*nodes: Any, index: int = 0) -> ModelProto:
    """A graph from `states` (n, length, 4) to `first` (n, 4), with two weights."""
    rng = np.random.default_rng(1)
    constants = {
        "w": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32),
        "b": rng.normal(size=WIDTH).astype(np.float32),
        "index": np.array(index, dtype=np.int64),
    }
    states = helper.make_tensor_value_info("states", TensorProto.FLOAT, ["n", "length", WIDTH])
    first = helper.make_tensor_value_info("first", TensorProto.FLOAT, ["n", WIDTH])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    model = helper.make_model(
        helper.make_graph([*nodes, node("Gather", "last index", "first", axis=1)], "test", [states], [first], tensors),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    return infer_shapes(model)


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def outcome(model: ModelProto, watched: str) -> tuple[np.ndarray, int]:
    """What the graph gives for `STATES`, and the length of an inner tensor."""
    checker.check_model(model, full_check=True)
    inner = helper.make_tensor_value_info(watched, TensorProto.FLOAT, None)
    model.graph.output.append(inner)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first, seen = session.run(["first", watched], {"states": STATES})
    return first, seen.shape[1]


FEED_FORWARD = (
    node("Tanh", "states", "attended"),
    node("MatMul", "attended w", "hidden"),
    node("Add", "hidden b", "moved"),
    node("Gelu", "moved", "active"),
    node("Add", "active attended", "last"),
)


def test_behind_what_all_positions_go_into_only_the_first_is_computed() -> None:
    whole, _ = outcome(graph(*FEED_FORWARD), "active")
    model = graph(*FEED_FORWARD)
    narrow(model)
    narrowed, length = outcome(model, "active")
    np.testing.assert_allclose(narrowed, whole, rtol=1e-6)
    assert length == 1


@pytest.mark.parametrize(
    "nodes",
    [
        (node("MatMul", "states w", "hidden"), node("Softmax", "hidden", "last", axis=1)),
        (node("MatMul", "states w", "hidden"), node("CumSum", "hidden axis", "last")),
    ],
)
def test_what_mixes_positions_is_computed_for_all(nodes: tuple[Any, ...]) -> None:
    model = graph(*nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, dtype=np.int64), "axis"))
    narrow(model)
    assert outcome(model, "hidden")[1] == STATES.shape[1]


def test_another_position_than_the_first_leaves_the_graph_as_it_is() -> None:
    model = graph(*FEED_FORWARD, index=2)
    narrow(model)
    assert model == graph(*FEED_FORWARD, index=2)

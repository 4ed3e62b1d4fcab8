"""Exports encoders from torch to ONNX graphs, quantises the graphs and replaces their head; needs the `train` extra."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torouter.errors import CheckpointError, MissingExtraError
from torouter.routers.encoders.onnx_encoder import FEATURES
from torouter.routers.encoders.onnx_prune import narrow
from torouter.routers.heads import Head

if TYPE_CHECKING:
    import torch

LOGITS = "logits"
ATTENTION = "eager"
"""The attention that is exported: torch's own becomes a graph of twice as many nodes, as it guards against NaN."""
_INPUTS = ("input_ids", "attention_mask")


def export(model: torch.nn.Module, path: Path, *, output: str) -> None:
    """Write the graph of a module that maps (input_ids, attention_mask), both int64 (n, length), to one tensor.

    A graph whose output is `logits` also outputs the last layer's input, as `features`.
    """
    import onnx
    import torch

    ids = torch.ones((2, 8), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it warns that torchvision is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model.eval(),
                (ids, mask),
                dynamo=True,
                input_names=list(_INPUTS),
                output_names=[output],
                dynamic_shapes=dict.fromkeys(_INPUTS, dynamic),
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
    assert program is not None
    graph = program.model_proto
    _forget_sources(graph)
    narrow(graph)
    if output == LOGITS:
        _put_head(graph, _take_head(graph))
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)


def quantise(graph: Path, path: Path) -> None:
    """Write the graph with int8 weights, one scale per channel; activations are quantised at run time.

    Weights use seven bits: with eight, sums overflow on CPUs without VNNI. The last layer stays fp32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(graph)
    head = _take_head(model) if _head_node(model) is not None else None
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # quantize_dynamic recommends a pre-processing step that changes nothing here
    try:
        quantize_dynamic(model, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)
    small = onnx.load(path)
    if head is not None:
        _put_head(small, head)
    onnx.checker.check_model(small)
    onnx.save(small, path)


def replace_head(path: Path, head: Head) -> None:
    """Replace the last layer of the graph in `path` by `head`.

    Raises:
        MissingExtraError: The onnx package is not installed.
        CheckpointError: The graph does not end with a linear layer.
    """
    try:
        import onnx
    except ImportError:
        msg = "saving a router whose experts changed needs the onnx package: pip install 'torouter[train]'"
        raise MissingExtraError(msg) from None
    model = onnx.load(path)
    _take_head(model)
    _put_head(model, head)
    onnx.save(model, path)


def _forget_sources(model: Any) -> None:
    """Drop the exporter's stack traces, which hold paths of this machine and change with every line of our source."""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    del model.metadata_props[:]


def _head_node(model: Any) -> Any:
    return next((node for node in model.graph.node if LOGITS in node.output), None)


def _take_head(model: Any) -> Head:
    """Remove and return the last layer; the graph then ends with that layer's input, named `features`."""
    from onnx import TensorProto, helper, numpy_helper

    node = _head_node(model)
    transposed = node is not None and any(a.name == "transB" and a.i == 1 for a in node.attribute)
    if node is None or node.op_type != "Gemm" or not transposed:
        operator = "nothing" if node is None else node.op_type
        raise CheckpointError(f"the graph's logits come from {operator}, not from a linear layer")
    layer = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weight = layer[node.input[1]]
    # The exporter drops a bias of zeros.
    bias = layer[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), dtype=np.float32)
    old = node.input[0]
    _keep(model.graph.initializer, lambda tensor: tensor.name not in node.input[1:])
    _keep(model.graph.value_info, lambda value: value.name not in (old, LOGITS))
    _keep(model.graph.node, lambda other: LOGITS not in other.output)
    for other in model.graph.node:
        for names in (other.input, other.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = FEATURES
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", weight.shape[1]]))
    return Head(weight, bias)


def _put_head(model: Any, head: Head) -> None:
    from onnx import TensorProto, helper, numpy_helper

    for name, array in (("head.weight", head.weight), ("head.bias", head.bias)):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    layer = helper.make_node("Gemm", [FEATURES, "head.weight", "head.bias"], [LOGITS], name="head", transB=1)
    model.graph.node.append(layer)
    model.graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", len(head.bias)]))


def _keep(items: Any, wanted: Callable[[Any], bool]) -> None:
    """Filter a repeated field of a protobuf in place."""
    kept = [item for item in items if wanted(item)]
    del items[:]
    items.extend(kept)

"""ONNX graphs of encoders: exported from torch, quantised, and given another head. Needs the `train` extra."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torouter.errors import CheckpointError, MissingExtraError
from torouter.routing.encode import FEATURES
from torouter.routing.heads import Head

if TYPE_CHECKING:
    import torch

LOGITS = "logits"
_INPUTS = ("input_ids", "attention_mask")


def export(model: torch.nn.Module, path: Path, *, output: str) -> None:
    """Write the graph of a module that maps (input_ids, attention_mask), both int64 (n, length), to one tensor.

    A graph whose output is `logits` gets the last layer's input as a second output, `features`.
    """
    import onnx
    import torch

    ids = torch.ones((2, 8), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it warns of torchvision's absence
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
    if output == LOGITS:
        _expose_features(graph)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)


def quantise(graph: Path, path: Path) -> None:
    """Write the graph with int8 weights, one scale per channel; activations are quantised as they come.

    Seven bits of a weight are used: with eight, the sums of CPUs without VNNI overflow. The last layer stays fp32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(graph)
    kept = [node.name for node in model.graph.node if LOGITS in node.output]
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # quantize_dynamic advises a pre-processing step that changes nothing here
    try:
        quantize_dynamic(
            model, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8, nodes_to_exclude=kept
        )
    finally:
        root.setLevel(level)
    onnx.checker.check_model(onnx.load(path), full_check=False)  # it has operators of ORT's own


def replace_head(path: Path, head: Head) -> None:
    """Rewrite a graph whose last layer is to be `head`.

    Raises:
        MissingExtraError: The onnx package is not there.
        CheckpointError: The graph does not end with a linear layer.
    """
    try:
        import onnx
    except ImportError:
        msg = "saving a router whose experts changed needs the onnx package: pip install 'torouter[train]'"
        raise MissingExtraError(msg) from None
    model = onnx.load(path)
    node = _last_layer(model)
    old = set(node.input[1:])
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in old]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.initializer.append(onnx.numpy_helper.from_array(head.weight, "head.weight"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(head.bias, "head.bias"))
    del node.input[1:]
    node.input.extend(["head.weight", "head.bias"])
    output = next(value for value in model.graph.output if value.name == LOGITS)
    output.type.tensor_type.shape.dim[1].dim_value = len(head.bias)
    onnx.save(model, path)


def _last_layer(model: Any) -> Any:
    """The Gemm node that makes the logits."""
    node = next((node for node in model.graph.node if LOGITS in node.output), None)
    transposed = node is not None and any(a.name == "transB" and a.i == 1 for a in node.attribute)
    if node is None or node.op_type != "Gemm" or not transposed:
        found = "nothing" if node is None else node.op_type
        raise CheckpointError(f"the graph's logits come from {found}, not from a linear layer")
    return node


def _expose_features(model: Any) -> None:
    import onnx

    node = _last_layer(model)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    old, width = node.input[0], weight.dims[1]
    for other in model.graph.node:
        for names in (other.input, other.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = FEATURES
    shape = ["batch", width]
    model.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, shape))
    kept = [value for value in model.graph.value_info if value.name != old]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)

"""A generator made ready to obfuscate by OpenVINO, on CPUs.

The graph is built here, operator by operator, from torch's own export. OpenVINO's converter would do it too, but
reports each conversion to its makers where its telemetry package is installed, as pip installs it.

Shape suffixes: N batch, C channel, H height, W width.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from prichexy.errors import UsageError
from prichexy.networks.inference import fold_batch_norm
from prichexy.obfuscation.settings import Precision
from prichexy.silent_openvino import silent_openvino

_PRECISION = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoNetwork:
    """A network's outputs without gradients, in float32 whatever it computes in; see `NetworkEngine`.

    It uses as many threads as torch is set to when it is made. Images go through one by one, so that a result is the
    same bits whatever its batch, and larger batches are no faster (110 to 111 ms an image for 1 to 8, bfloat16).

    Args:
        network: a generator with its weights; it is copied.
        precision: what the convolutions compute in.
        image_size: side S of the images.

    Raises:
        UsageError: this processor has no instructions for the precision.
    """

    device = torch.device("cpu")

    def __init__(self, network: nn.Module, precision: Precision, image_size: int) -> None:
        openvino = silent_openvino()
        core = openvino.Core()
        if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            # It would compute in float32 without a word, and another precision than the audited one be published.
            raise UsageError(
                "engine: openvino needs a processor with bfloat16 instructions for precision bfloat16: "
                "use engine torch, or a model audited in float32"
            )
        options = {
            "INFERENCE_PRECISION_HINT": _PRECISION[precision],
            "EXECUTION_MODE_HINT": "PERFORMANCE",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        self._size = image_size
        self._request = core.compile_model(_graph(network, image_size), "CPU", options).create_infer_request()

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Outputs of the network, float32."""
        images = images_NCHW.detach().cpu().float().contiguous().numpy()
        if images.shape[1:] != (1, self._size, self._size):
            raise ValueError(f"expected images (N, 1, {self._size}, {self._size}), not {images.shape}")
        outputs = [np.array(self._request.infer([image[None]])[0]) for image in images]  # the next call overwrites it
        channels = self._request.get_output_tensor(0).shape[1]
        shape = (0, channels, self._size, self._size)
        return torch.from_numpy(np.concatenate(outputs) if outputs else np.empty(shape, np.float32))


def _graph(network: nn.Module, image_size: int) -> Any:
    """The network as an OpenVINO model of one image, batch norms folded."""
    openvino = silent_openvino()
    from openvino import opset13 as ops

    folded = fold_batch_norm(network)
    exported = torch.export.export(folded, (torch.zeros(1, 1, image_size, image_size),))
    weights = {**dict(folded.named_parameters()), **dict(folded.named_buffers())}
    named = {**exported.graph_signature.inputs_to_parameters, **exported.graph_signature.inputs_to_buffers}
    built: dict[Node, Any] = {}
    image = ops.parameter([1, 1, image_size, image_size], np.float32)
    result = None
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            is_weight = node.name in named
            built[node] = ops.constant(weights[named[node.name]].detach().numpy()) if is_weight else image
        elif node.op == "output":
            result = built[node.args[0][0]]
        else:
            built[node] = _operator(str(node.target))(ops, _filled(node), built)
    return openvino.Model([result], [image], "generator")


def _filled(node: Node) -> list[Any]:
    """The arguments of a call, defaults included, in the order of torch's schema."""
    given = dict(node.kwargs)
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    return [
        node.args[number] if number < len(node.args) else given.get(argument.name, argument.default_value)
        for number, argument in enumerate(schema)
    ]


def _operator(name: str) -> Callable[[Any, list[Any], Mapping[Node, Any]], Any]:
    try:
        return _OPERATORS[name]
    except KeyError:
        raise NotImplementedError(f"no OpenVINO counterpart of {name} is known here") from None


def _convolution(ops: Any, given: list[Any], built: Mapping[Node, Any]) -> Any:
    data, weight, bias, stride, padding, dilation, groups = given
    if groups != 1:
        raise NotImplementedError("convolutions in groups are not known here")
    convolved = ops.convolution(built[data], built[weight], stride, padding, padding, dilation)
    return _biased(ops, convolved, bias, built)


def _transposed_convolution(ops: Any, given: list[Any], built: Mapping[Node, Any]) -> Any:
    data, weight, bias, stride, padding, output_padding, groups, dilation = given
    if groups != 1:
        raise NotImplementedError("convolutions in groups are not known here")
    convolved = ops.convolution_backprop_data(
        built[data],
        built[weight],
        strides=stride,
        pads_begin=padding,
        pads_end=padding,
        dilations=dilation,
        output_padding=output_padding,
    )
    return _biased(ops, convolved, bias, built)


def _biased(ops: Any, convolved: Any, bias: Node | None, built: Mapping[Node, Any]) -> Any:
    if bias is None:
        return convolved
    return ops.add(convolved, ops.reshape(built[bias], ops.constant(np.array([1, -1, 1, 1])), False))


def _max_pool(ops: Any, given: list[Any], built: Mapping[Node, Any]) -> Any:
    data, kernel, stride, padding, dilation, rounds_up = given
    rounding = "ceil" if rounds_up else "floor"
    return ops.max_pool(built[data], stride or kernel, dilation, padding, padding, kernel, rounding).output(0)


_OPERATORS: dict[str, Callable[[Any, list[Any], Mapping[Node, Any]], Any]] = {
    "aten.conv2d.default": _convolution,
    "aten.conv_transpose2d.input": _transposed_convolution,
    "aten.max_pool2d.default": _max_pool,
    "aten.cat.default": lambda ops, given, built: ops.concat([built[node] for node in given[0]], given[1]),
    "aten.relu_.default": lambda ops, given, built: ops.relu(built[given[0]]),
    "aten.leaky_relu_.default": lambda ops, given, built: ops.prelu(
        built[given[0]], ops.constant(np.array([given[1]], np.float32))
    ),
    "aten.tanh.default": lambda ops, given, built: ops.tanh(built[given[0]]),
    "aten.sigmoid.default": lambda ops, given, built: ops.sigmoid(built[given[0]]),
}
"""Torch's operator to OpenVINO's: those of the generators here."""

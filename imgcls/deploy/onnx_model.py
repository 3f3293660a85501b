"""Write a network as an ONNX file, and run an ONNX file."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from imgcls.errors import LaunchError, ModelError, one_line

if TYPE_CHECKING:
    import onnx_ir

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUT = "pixel_values", "logits"
OPSET = 18  # that of torch's exporter: nothing is converted, and older runtimes can read it
MAX_FILE_BYTES = 1_500_000_000  # protobuf is limited to 2 GiB, and torch itself splits from 1.6e9 bytes


def check_packages() -> None:
    """Raises LaunchError when a package that only the export needs is missing."""
    missing = []
    for name in PACKAGES:
        try:
            with _silence():
                importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise LaunchError(
            f"Expected {', '.join(PACKAGES)} for the export, got no {', '.join(missing)}. "
            f"Install what is missing: pip install {' '.join(missing)}"
        )


def to_onnx_program(network: nn.Module, shape: Sequence[int]) -> torch.onnx.ONNXProgram:
    """The network, float32 on the CPU, as an ONNX graph for any number of images of `shape` (3, px, px).

    Raises ModelError when torch cannot export it.
    """
    try:
        with _silence():
            program = torch.onnx.export(
                _Logits(network).eval(),
                (torch.zeros(2, *shape),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = one_line(error.__cause__ or error, limit=300)
        raise ModelError(
            f"Expected a network that ONNX can represent, got {type(network).__name__}: {reason}. Try newer versions: "
            f"pip install -U torch {' '.join(PACKAGES)}"
        ) from error
    assert program is not None  # it never is with dynamo=True
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with paths of this machine
        if node.op_type == "AveragePool" and _is_global(node):
            node.op_type = "GlobalAveragePool"
            node.attributes.clear()
    return program


def _is_global(pool: onnx_ir.Node) -> bool:
    """Whether the window of an average pooling covers the whole feature map.

    transformers' EfficientNet has a window of 1280 x 1280 over 7 x 7, and onnxruntime up to 1.28 divides by the size of
    the window: probabilities differed by 0.011, which the parity proof refused.
    """
    features = pool.inputs[0]
    if features is None or features.shape is None:
        return False
    sides, window = features.shape[2:], pool.attributes["kernel_shape"].value
    return all(isinstance(side, int) and side <= length for side, length in zip(sides, window, strict=True))


class _Logits(nn.Module):
    """A network with logits as its only output."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits (n, K) of pixels (n, 3, px, px)."""
        return self.network(pixel_values=pixel_values).logits


def save_onnx(program: torch.onnx.ONNXProgram, file: Path, metadata: Mapping[str, object]) -> None:
    """Write a graph with metadata, values as JSON; weights above MAX_FILE_BYTES go into a second file next to it."""
    program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
    tensors = [value.const_value for value in program.model.graph.initializers.values()]
    weights = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    with _silence():
        program.save(file, external_data=weights > MAX_FILE_BYTES)


def onnx_function(file: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """An ONNX file as a function on the CPU: pixels float32 (n, 3, px, px) -> logits (n, K)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run([OUTPUT], {INPUT: pixels})[0])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress warnings, log lines and prints of the exporter, which are for its developers."""
    level, sink = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)

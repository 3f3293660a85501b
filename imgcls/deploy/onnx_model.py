"""A network -> an ONNX file, and an ONNX file -> logits."""

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
OPSET = 18  # the one torch's exporter is written in: nothing is converted, and older runtimes read it
ONE_FILE_BYTES = 1_500_000_000  # a protobuf holds 2 GiB, and torch itself divides from 1.6e9 bytes on


def check_packages() -> None:
    """Raises LaunchError when a package is missing that only the export needs."""
    missing = []
    for name in PACKAGES:
        try:
            with _quiet():
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

    Raises ModelError when torch cannot write it.
    """
    try:
        with _quiet():
            found = torch.onnx.export(
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
            f"Expected a network that ONNX can hold, got {type(network).__name__}: {reason}. Try newer versions: "
            f"pip install -U torch {' '.join(PACKAGES)}"
        ) from error
    for node in found.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the paths of this machine
        if node.op_type == "AveragePool" and _averages_all(node):
            node.op_type = "GlobalAveragePool"
            node.attributes.clear()
    return found


def _averages_all(pool: onnx_ir.Node) -> bool:
    """Whether a pooling's window holds the whole map.

    transformers' EfficientNet has one of 1280 x 1280 over 7 x 7; onnxruntime up to 1.28 divides by all of it, as found
    by an export that was refused: probabilities 0.011 apart.
    """
    sides = pool.inputs[0].shape[2:]
    window = pool.attributes["kernel_shape"].value
    return all(isinstance(side, int) and side <= length for side, length in zip(sides, window, strict=True))


class _Logits(nn.Module):
    """Pixels -> logits and nothing else, whatever the network gives."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.network(pixel_values=pixel_values).logits


def save_onnx(graph: torch.onnx.ONNXProgram, file: Path, told: Mapping) -> None:
    """Write the graph, with `told` as its metadata (JSON); weights above ONE_FILE_BYTES go into a file beside it."""
    graph.model.metadata_props.update({name: json.dumps(value) for name, value in told.items()})
    weights = sum(value.const_value.nbytes for value in graph.model.graph.initializers.values())
    with _quiet():
        graph.save(file, external_data=weights > ONE_FILE_BYTES)


def onnx_function(file: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """What onnxruntime says on a CPU: pixels float32 (n, 3, px, px) -> logits (n, K)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run([OUTPUT], {INPUT: pixels})[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back warnings, log lines and prints of the exporter: they are for its developers."""
    level, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)

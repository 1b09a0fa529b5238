"""A convolutional network on the GPU at hand, beside what its profile and the device's rates say of it.

    python -m benchmarks.gpu_convolutions --write resnet50.onnx
    tune profile resnet50.onnx --device cuda --out profiles/resnet50
    python -m benchmarks.gpu_convolutions --model resnet50.onnx --profiles profiles --rows rows.jsonl
    python -m benchmarks.gpu_convolutions --model resnet50.onnx --profiles profiles --rows rows.jsonl --measured

The network is ResNet-50 (He et al. 2016, Table 1; the stride in the 3x3 convolutions) with random weights, its batch
normalisations folded into the convolutions, as served models have them. A pass runs in bf16, channels last, with the
convolutions that cuDNN finds fastest, all captured in one CUDA graph: once with a pass of torch's compiler over each
output for bias, addition and rectifier (`apart`), once with those in cuDNN's own kernels, as engines have them
(`together`). `--measured` predicts the rows that an earlier run wrote, on a machine without a GPU. Norms, activations
and additions are timed as torch runs them, one by one, beside the rate of the memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.gpu_passes import kernel_seconds
from profilers.microbenchmark import profile
from profilers.onnx_file.reader import OnnxReader
from profilers.probe import Probe
from profilers.shipped import folder as shipped_tables
from profilers.timing import time_call, wake
from search_spaces.device_catalogue import catalogue
from tuner.hardware import named_gpu
from tuner.model_graph import ModelGraph
from tuner.operators import MatMul
from tuner.performance.operator_table import OperatorTable
from tuner.performance.step_time import StepLoads, StepTime
from tuner.performance.table_choice import profiled_tables
from tuner.step import Shard
from tuner.traced_operators import Convolution

BATCHES = (1, 4, 8, 24, 64, 100, 256)
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
"""Blocks, width and stride of the first block."""
VALUES = tuple((rows, 4096) for rows in (1, 16, 256, 2048, 8192, 65536))
KINDS = ("normalization", "activation", "arithmetic")


Convolve = Callable[[torch.nn.Conv2d, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""A layer, its input, and what is added before the rectifier, to the output."""


class Block(torch.nn.Module):
    """Three convolutions and what they are added to."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.reduce = torch.nn.Conv2d(channels, width, 1)
        self.convolve = torch.nn.Conv2d(width, width, 3, stride, 1)
        self.expand = torch.nn.Conv2d(width, out, 1)
        self.shortcut = torch.nn.Conv2d(channels, out, 1, stride) if stride > 1 or channels != out else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Plain operations, as an exporter sees them."""
        y = functional.relu(self.convolve(functional.relu(self.reduce(x))))
        return functional.relu(self.expand(y) + (x if self.shortcut is None else self.shortcut(x)))

    def served(self, x: torch.Tensor, convolve: Convolve) -> torch.Tensor:
        """The same, each convolution with what follows it."""
        y = convolve(self.convolve, convolve(self.reduce, x, None), None)
        return convolve(self.expand, y, x if self.shortcut is None else _bare(self.shortcut, x))


class ResNet50(torch.nn.Module):
    """25.5 million parameters; 224 x 224 images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 64, 7, 2, 3)
        blocks, channels = [], 64
        for count, width, stride in STAGES:
            for place in range(count):
                blocks.append(Block(channels, width, stride if place == 0 else 1))
                channels = 4 * width
        self.blocks = torch.nn.ModuleList(blocks)
        self.classes = torch.nn.Linear(channels, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Plain operations, as an exporter sees them."""
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return self.classes(x.mean((2, 3)))

    def served(self, x: torch.Tensor, convolve: Convolve) -> torch.Tensor:
        """The same, each convolution with what follows it."""
        x = functional.max_pool2d(convolve(self.stem, x, None), 3, 2, 1)
        for block in self.blocks:
            assert isinstance(block, Block)
            x = block.served(x, convolve)
        return functional.linear(x.mean((2, 3)), self.classes.weight)


def _bare(layer: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Without its bias: that of a shortcut is added to the other's beforehand."""
    return functional.conv2d(x, layer.weight, None, layer.stride, layer.padding)


def apart(layer: torch.nn.Conv2d, x: torch.Tensor, added: torch.Tensor | None) -> torch.Tensor:
    """A convolution, and one pass over its output for the bias, what is added, and the rectifier."""
    y = _bare(layer, x)
    count, channels, height, width = y.shape
    flat = y.permute(0, 2, 3, 1).reshape(-1, channels)
    other = None if added is None else added.permute(0, 2, 3, 1).reshape(-1, channels)
    done = _rectified(flat, layer.bias) if other is None else _added(flat, layer.bias, other)
    return done.view(count, height, width, channels).permute(0, 3, 1, 2)


def together(layer: torch.nn.Conv2d, x: torch.Tensor, added: torch.Tensor | None) -> torch.Tensor:
    """All of that by one kernel of cuDNN."""
    shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
    if added is None:
        return torch.cudnn_convolution_relu(x, layer.weight, layer.bias, *shape)
    return torch.cudnn_convolution_add_relu(x, layer.weight, added, 1.0, layer.bias, *shape)


@torch.compile(dynamic=True)
def _rectified(rows: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.relu(rows + bias)


@torch.compile(dynamic=True)
def _added(rows: torch.Tensor, bias: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return functional.relu(rows + bias + other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="the network as an ONNX file")
    parser.add_argument("--model", type=Path, help="that file")
    parser.add_argument("--profiles", type=Path)
    parser.add_argument("--rows", type=Path, default=Path("convolutions.jsonl"))
    parser.add_argument("--measured", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.write is not None:
        write(arguments.write)
    if arguments.model is None:
        return
    if not arguments.measured:
        with arguments.rows.open("w", encoding="utf-8") as file:
            for row in measure():
                print(json.dumps(row), file=file, flush=True)
    rows = [json.loads(line) for line in arguments.rows.read_text(encoding="utf-8").splitlines()]
    report(OnnxReader().read(arguments.model), rows, arguments.profiles)


def write(path: Path) -> None:
    """Exports the network for any number of images."""
    images = torch.zeros(2, 3, 224, 224)
    torch.onnx.export(
        ResNet50().eval(), (images,), str(path), dynamo=False, input_names=["images"], output_names=["classes"],
        dynamic_axes={"images": {0: "batch"}, "classes": {0: "batch"}},
    )  # fmt: skip


def measure() -> Iterator[dict[str, Any]]:
    """Times whole passes, then passes over values."""
    device = torch.cuda.get_device_name()
    wake("cuda")
    network = ResNet50().eval().to("cuda", torch.bfloat16, memory_format=torch.channels_last)
    for batch in BATCHES:
        images = torch.randn(batch, 3, 224, 224, device="cuda", dtype=torch.bfloat16)
        images = images.contiguous(memory_format=torch.channels_last)
        for way in (apart, together):
            call = _pass(network, images, way)
            try:
                timing = time_call(call, "cuda", budget_s=0.3)
            except RuntimeError as error:  # cuDNN may fuse no bf16
                print(f"{way.__name__}: {error}", file=sys.stderr)
                continue
            kernels, names = _by_kernel(call)
            yield {
                "what": f"resnet50 {way.__name__}", "device": device, "images": batch, "measured_s": timing.median_s,
                "kernels_s": kernels, "names": names,
            }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        wanted = [Probe(kind, rows, width) for kind in KINDS for rows, width in VALUES]
        found = profile(wanted, "cuda", Path(folder) / "journal.jsonl", 30.0)
    for probe, timing in found.timings.items():
        yield {
            "what": probe.kind, "device": device, "rows": probe.rows, "width": probe.width,
            "measured_s": timing.median_s, "moved_bytes": 2.0 * probe.values_moved,
        }  # fmt: skip


def _pass(network: ResNet50, images: torch.Tensor, way: Convolve) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            return network.served(images, way)

    return call


def _by_kernel(call: Callable[[], object]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds that the kernels of a pass take, one by one, by what they compute, and of the ten longest by name."""
    sums = dict.fromkeys(("convolution", "fused", "other"), 0.0)
    names: dict[str, float] = {}
    for key, seconds in kernel_seconds(call).items():
        name = key.lower()
        kind = (
            "fused" if name.startswith("triton")
            else "other" if name.startswith("void at::native") or "memset" in name or "memcpy" in name
            else "convolution"
        )  # fmt: skip
        sums[kind] += seconds
        names[key[:90]] = seconds
    return sums, dict(sorted(names.items(), key=lambda pair: -pair[1])[:10])


def report(graph: ModelGraph, rows: list[dict[str, Any]], profiles: Path) -> None:
    """Prints each pass beside its predictions, and passes over values beside the memory's rate."""
    hardware = named_gpu(rows[0]["device"], catalogue())
    assert hardware is not None, f"{rows[0]['device']} is not in the catalogue"
    folders = profiled_tables(catalogue(), profiles).get(hardware.name, [])
    tables = {
        "rates": OperatorTable(hardware, shipped_tables() / hardware.name),
        "profiled": OperatorTable(hardware, shipped_tables() / hardware.name, own=folders),
    }
    errors: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if "images" not in row:
            share = row["moved_bytes"] / row["measured_s"] / hardware.bandwidth_bytes_per_s
            took = f"{row['measured_s'] * 1e6:8.1f} us"
            print(f"{row['what']:14} {row['rows']:6} x {row['width']} {took}, {share:.0%} of the memory's rate")
            continue
        kernels, way = row["kernels_s"], row["what"].split()[1]
        words = []
        for name, table in tables.items():
            found = by_part(graph, table, row["images"])
            whole = sum(found.values()) - (found["values"] if way == "together" else 0.0)
            shares = {"whole": whole / row["measured_s"], "convolutions": found["convolution"] / kernels["convolution"]}
            if way == "apart":
                shares["values"] = found["values"] / (kernels["fused"] + kernels["other"])
            for part, share in shares.items():
                errors[f"{way:8} {name:8} {part}"].append(share - 1.0)
            words.append(f"{name} " + " ".join(f"{part} {share - 1.0:+.1%}" for part, share in shares.items()))
        spent = " ".join(f"{kind} {seconds * 1e3:.3f}" for kind, seconds in kernels.items())
        label = f"{way:8} {row['images']:4} images {row['measured_s'] * 1e3:8.3f} ms"
        print(f"{label}  {'; '.join(words)}  kernels, ms: {spent}")
    for name, each in errors.items():
        mean = statistics.mean(abs(error) for error in each)
        print(f"{name:34} mean error {mean:.1%}, mean {statistics.mean(each):+.1%}")


def by_part(graph: ModelGraph, table: OperatorTable, images: int) -> dict[str, float]:
    """Predicted seconds of a pass: convolutions, products, and all that passes over values alone."""
    step = StepTime(graph, table, Shard())
    loads = StepLoads.prefill(np.array([float(images)]), np.array([1.0]))
    sums = dict.fromkeys(("convolution", "product", "values"), 0.0)
    for operator in graph.operators:
        kind = "convolution" if isinstance(operator, Convolution) else "product" if isinstance(operator, MatMul) else ""
        sums[kind or "values"] += float(step.operator_s(operator, loads)[1][0])
    return sums


if __name__ == "__main__":
    main()

"""Every kind of probe runs, in torch and in onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from profilers import onnx_calls
from profilers.microbenchmark import profile
from profilers.probe import Probe
from profilers.torch_calls import torch_call
from tuner.errors import UnavailableError

SHAPE = {"size": [8, 8], "kernel": [3, 3], "stride": [1, 1], "padding": [2, 2], "dilation": [1, 1], "groups": 2}
PROBES = [
    Probe("matmul", 6, 16, 8),
    Probe("attention", 8, 16, 8, 4),
    Probe("convolution", 2, 4, 6, detail=json.dumps(SHAPE)),
    Probe("normalization", 4, 8),
    Probe("activation", 4, 8),
    Probe("arithmetic", 4, 8),
]


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.kind)
def test_torch_runs_it(probe: Probe) -> None:
    call, runs = torch_call(probe, "cpu")
    call()
    assert runs >= 1


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.kind)
def test_onnxruntime_runs_it(probe: Probe) -> None:
    pytest.importorskip("onnxruntime")
    call, runs = onnx_calls.onnx_call(probe, 1)
    call()
    assert runs >= 1


def test_onnxruntime_on_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UnavailableError, match="timed on the CPU"):
        profile([], "cuda", tmp_path / "journal.jsonl", runtime="onnxruntime")

"""The GPUs of this machine: what is asked of them before a study, and what a server is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runners.gpus import Gpu, nvidia_gpus, require_gpus, visible_gpus
from tuner.device import DeviceKind, DeviceType
from tuner.errors import UnavailableError

TWO = (Gpu(index="0", uuid="GPU-a"), Gpu(index="1", uuid="GPU-b"))


def device(gpus: int, *ids: str) -> DeviceType:
    return DeviceType(name="gpu", kind=DeviceKind.GPU, gpus=gpus, gpu_ids=ids, price_per_hour=1.0)


def test_missing_gpus_and_wrong_ids_are_named() -> None:
    require_gpus(device(2), lambda: TWO)
    require_gpus(device(1, "GPU-b"), lambda: TWO)
    with pytest.raises(UnavailableError, match="has 3 GPUs, and nvidia-smi finds 2"):
        require_gpus(device(3), lambda: TWO)
    with pytest.raises(UnavailableError, match=r"names the GPUs GPU-c, .* 0 \(GPU-a\), 1 \(GPU-b\)"):
        require_gpus(device(1, "GPU-c"), lambda: TWO)


def test_a_server_is_shown_only_its_gpus() -> None:
    assert visible_gpus(device(2)) == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert visible_gpus(device(1, "GPU-b")) == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert visible_gpus(DeviceType(name="cpu", price_per_hour=1.0)) == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("0, GPU-a\\n1, GPU-b\\n", TWO),
        ("No devices were found\\n", ()),
        ("", ()),
    ],
)
def test_what_nvidia_smi_prints_is_read(
    answer: str, found: tuple[Gpu, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert nvidia_gpus() == found


@pytest.mark.skipif(not nvidia_gpus(), reason="needs an NVIDIA GPU")
def test_the_gpus_of_this_machine_are_found_and_shown_by_index_and_by_uuid() -> None:
    found = nvidia_gpus()
    require_gpus(device(len(found)), nvidia_gpus)
    with pytest.raises(UnavailableError, match="has 99 GPUs"):
        require_gpus(device(99), nvidia_gpus)
    count = "import torch; print(torch.cuda.device_count())"
    for shown, wanted in (
        (device(1), 1),
        (device(1, found[0].uuid), 1),
        (DeviceType(name="cpu", price_per_hour=1.0), 0),
    ):
        told = subprocess.run(
            [sys.executable, "-c", count], env={"PATH": "/usr/bin:/bin", **visible_gpus(shown)}, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        assert int(told.stdout) == wanted

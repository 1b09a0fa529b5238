"""Exports say what was measured and escape what their readers would interpret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tuner.device import DeviceKind, DeviceType
from tuner.errors import RunError, UnknownNameError, UsageError
from tuner.export.bundle import Deployment, export_files, write_files
from tuner.export.compose import compose_files
from tuner.launch import HealthCheck, LaunchSpec, Mount, TemplateRequest
from tuner.parameter import Config
from tuner.ports import ModelSource, ServingTask
from tuner.testing.fakes import FakeSearchSpace
from tuner.workload import ClosedLoop, TemplateShapes, Workload

CPU = DeviceType(name="cpu", cpus=2, memory_bytes=2**30, price_per_hour=0.1)
VALUES = {
    "device": "cpu", "dynamic_batching": True, "max_batch_size": 8, "queue_delay_us": 0,
    "instance_count": 1, "threads": 2, "precision": "fp32",
}  # fmt: skip


def deployment(metrics: Mapping[str, float] | None = None) -> Deployment:
    task = ServingTask(
        model=ModelSource(name="model"),
        devices=(CPU,),
        workload=Workload(arrival=ClosedLoop(clients=1), requests=TemplateShapes()),
    )
    return Deployment(
        study="My Study!",
        engine_name="fake",
        engine=FakeSearchSpace({}),
        task=task,
        config=Config(VALUES),
        metrics=metrics or {"p99(latency)": 0.02},
    )


def spec(**changes: object) -> LaunchSpec:
    values: dict[str, object] = {
        "argv": ("serve", "--port", "{port}", "--dir", "{scratch}/a", "{mount:model}", "{{x}}"),
        "environment": {"TOKENS": "a$b"},
        "image": "image:1",
        "port": 8123,
        "files": {"a/conf.txt": "port={port} {other}", "b.txt": "{port}"},
        "templated_files": frozenset({"a/conf.txt"}),
        "mounts": (Mount(name="model", source=Path("/models/m$1"), target="/model"),),
        "health": HealthCheck(path="/"),
        "request": TemplateRequest(shapes=TemplateShapes()),
    }
    return LaunchSpec(**{**values, **changes})  # type: ignore[arg-type]


def test_compose_starts_the_container_that_was_measured() -> None:
    files = compose_files(spec(), CPU)
    document = yaml.safe_load(files["compose.yaml"])
    server = document["services"]["server"]
    assert server["command"] == ["serve", "--port", "8123", "--dir", "/serving-tuner/a", "/model", "{x}"]
    assert server["cap_drop"] == ["ALL"]
    assert server["cpuset"] == "${CPUSET:-0-1}"
    assert files["files/a/conf.txt"] == "port=8123 {other}"
    assert files["files/b.txt"] == "{port}"
    assert all(volume["read_only"] for volume in server["volumes"])


@given(st.text(st.characters(codec="ascii", exclude_characters="\0{}")))
def test_compose_never_interpolates_a_value(text: str) -> None:
    files = compose_files(spec(environment={"X": text}), CPU)
    value = yaml.safe_load(files["compose.yaml"])["services"]["server"]["environment"]["X"]
    assert value.replace("$$", "").count("$") == 0
    assert value.replace("$$", "$") == text


def test_compose_reserves_gpus() -> None:
    gpu = DeviceType(name="l4", kind=DeviceKind.GPU, gpus=2, price_per_hour=1.0)
    document = yaml.safe_load(compose_files(spec(), gpu)["compose.yaml"])
    devices = document["services"]["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "capabilities": ["gpu"], "count": 2}]


def test_compose_without_an_image_says_what_to_set() -> None:
    with pytest.raises(UsageError, match=r"Set engine\.image"):
        compose_files(spec(image=None), CPU)


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_summary_carries_parameters_and_numbers_with_units(form: str) -> None:
    (text,) = export_files(deployment(), form).values()
    read = json.loads(text) if form == "json" else yaml.safe_load(text)
    assert read["parameters"]["max_batch_size"] == 8
    assert read["device"] == "cpu"
    assert read["measured"]["p99(latency)"] == {"value": 0.02, "unit": "s"}


def test_environment_file_has_one_line_per_variable() -> None:
    text = export_files(deployment(), "env")["server.env"]
    assert "TUNED_MAX_BATCH_SIZE=8" in text.splitlines()
    assert "TUNED_DYNAMIC_BATCHING=true" in text.splitlines()


def test_unknown_format_names_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'compose'"):
        export_files(deployment(), "compos")


def test_single_file_goes_to_the_path_and_several_to_a_folder(tmp_path: Path) -> None:
    assert write_files({"config.json": "{}"}, tmp_path / "best.json") == [tmp_path / "best.json"]
    assert write_files({"a": "", "b/c": ""}, tmp_path / "out") == [tmp_path / "out/a", tmp_path / "out/b/c"]


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Choose another place"):
        write_files({"a": "", "b": ""}, tmp_path / "file")

"""Trials for tests of runners: a server of some mode, on a small device, under a short load."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from pathlib import Path

from tuner.device import DeviceType
from tuner.launch import HealthCheck, LaunchSpec, TemplateRequest
from tuner.trial import Attempt, Progress, TrialPlan
from tuner.workload import ClosedLoop, TemplateShapes, Workload

TOKEN = "hf_" + "secret" * 4
SERVER = Path(__file__).with_name("misbehaving_server.py")
_SHAPES = TemplateShapes(path="/answer", expect="forty-two")
_MEMORY_BYTES = 64 * 2**20


def ignore(_: Progress) -> None:
    """Watches nothing."""


def some_attempt(study_id: str = "conformance") -> Attempt:
    return Attempt(study_id=study_id, trial=3, token=uuid.uuid4().hex[:12])


def a_plan(**changes: object) -> TrialPlan:
    plan = TrialPlan(
        workload=Workload(arrival=ClosedLoop(clients=1), requests=_SHAPES),
        warmup_s=0.0,
        windows=1,
        window_s=0.4,
        request_timeout_s=10.0,
        start_deadline_s=60.0,
        stop_deadline_s=5.0,
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def a_device(**changes: object) -> DeviceType:
    device = DeviceType(name="cpu-1", price_per_hour=0.36, cpus=1, memory_bytes=_MEMORY_BYTES)
    return replace(device, **changes)  # type: ignore[arg-type]


def a_spec(mode: str, *more: str, **changes: object) -> LaunchSpec:
    spec = LaunchSpec(
        argv=("python3", "{scratch}/server.py", mode, "{host}", "{port}", *more),
        image=os.environ.get("TUNER_BASE_IMAGE", "python:3.11-slim"),
        environment={"HF_TOKEN": TOKEN},
        files={"server.py": SERVER.read_text()},
        health=HealthCheck(path="/health"),
        request=TemplateRequest(shapes=_SHAPES),
        refusals=(r"block size \d+ is not supported",),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]

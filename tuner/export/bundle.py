"""Deployment files of a configuration, in one format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from tuner.errors import RunError, UnknownNameError
from tuner.export.compose import compose_files
from tuner.export.environment import environment_file
from tuner.launch import Target
from tuner.metric import MetricRef
from tuner.parameter import DEVICE, Config
from tuner.ports import SearchSpace, ServingTask

GENERAL_FORMATS: Final = ("json", "yaml", "env", "compose")
"""Formats that every engine gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What is exported.

    Attributes:
        study: name of the study it comes from.
        engine_name: name of the engine; `engine` is its adapter.
        task: model, devices, workload.
        config: the configuration.
        metrics: what was measured of it, by metric name, in base units; may be empty.
    """

    study: str
    engine_name: str
    engine: SearchSpace
    task: ServingTask
    config: Config
    metrics: Mapping[str, float]


def formats(engine: SearchSpace) -> tuple[str, ...]:
    """Every format that can be exported for an engine."""
    return (*GENERAL_FORMATS, *engine.formats)


def export_files(deployment: Deployment, form: str) -> Mapping[str, str]:
    """The files of `deployment` in one format, by relative path.

    Raises:
        UnknownNameError: no such format.
    """
    engine = deployment.engine
    if form == "json":
        return {"config.json": json.dumps(_summary(deployment), indent=2) + "\n"}
    if form == "yaml":
        return {"config.yaml": yaml.safe_dump(_summary(deployment), sort_keys=False)}
    if form in ("env", "compose"):
        spec = engine.launch(deployment.task, deployment.config, Target.CONTAINER)
        if form == "env":
            return {"server.env": environment_file(spec, deployment.config)}
        return compose_files(spec, deployment.task.device(deployment.config.device))
    if form in engine.formats:
        return engine.export(deployment.task, deployment.config, form)
    raise UnknownNameError("export format", form, formats(engine))


def write_files(files: Mapping[str, str], path: Path) -> list[Path]:
    """Writes exported files and returns where they are.

    A single file goes to `path` itself where that has a suffix; otherwise `path` is a folder.

    Raises:
        RunError: it cannot be written.
    """
    to_file = len(files) == 1 and path.suffix != "" and not path.is_dir()
    written = []
    try:
        for name, text in files.items():
            target = path if to_file else path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            written.append(target)
    except OSError as error:
        raise RunError(f"Cannot write {error.filename or path}: {error.strerror}. Choose another place.") from error
    return written


def _summary(deployment: Deployment) -> dict[str, object]:
    values = dict(deployment.config.values)
    return {
        "study": deployment.study,
        "engine": deployment.engine_name,
        "model": deployment.task.model.name,
        "device": values.pop(DEVICE),
        "parameters": values,
        "measured": {
            name: {"value": value, "unit": MetricRef.parse(name).metric.dimension.value}
            for name, value in deployment.metrics.items()
        },
    }

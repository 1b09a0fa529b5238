"""Earlier tasks as data: the trials of a finished study, or of a published measurement; no weights, no names of layers.

The file format is JSON, gzipped or not, one task per file::

    {"version": 1, "name": "encoder-a", "source": "...", "licence": "", "engine": "triton",
     "devices": {"cpu-1": {"kind": "cpu", "cpus": 1}}, "parameters": {"device": "categorical", "batch": "log"},
     "trials": [{"config": {"device": "cpu-1", "batch": 8}, "metrics": {"throughput": 120.0}},
                {"config": {"device": "cpu-1", "batch": 64}}],
     "features": {"log_parameters": 18.5, "flops_share_matmul": 0.97}}

A trial without metrics did not run. Features tell what the model is made of (`tuner.make_up`); without them it is not
known. A file of a newer version is refused, whole.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tuner.errors import UsageError, shortened
from tuner.parameter import BEYOND_USE, Scale, Value

VERSION: Final = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,119}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorTrial:
    """One trial: what was set, and what was measured; no metrics where it did not run."""

    config: Mapping[str, Value]
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorTask:
    """An earlier task.

    Attributes:
        name: unique in a library; letters, digits and `._@+-`.
        source: where the numbers come from.
        licence: of the numbers, where they are someone else's.
        engine: whose parameters they are; empty where it is none of ours.
        devices: by name of a device type, what it is: numbers and words that do not depend on its name or price.
        parameters: scale of every parameter that trials may set.
        trials: in the order in which they were run.
        features: numbers that describe the model.
    """

    name: str
    source: str = ""
    licence: str = ""
    engine: str = ""
    devices: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    parameters: Mapping[str, Scale]
    trials: tuple[PriorTrial, ...]
    features: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"{self.name!r} cannot name a prior. Use letters, digits and ._@+- only, 120 at most.")
        for trial in self.trials:
            unknown = sorted(set(trial.config) - set(self.parameters))
            if unknown:
                raise UsageError(f"Prior {self.name!r}: a trial sets {', '.join(unknown)}, which it does not declare.")
            for name, value in trial.config.items():
                if not _is_value(value):
                    problem = f"Prior {self.name!r}: a trial sets {name} to {_shown(value)}."
                    raise UsageError(f"{problem} Write a number below {BEYOND_USE:g}, a word, true or false.")
            for name, metric in trial.metrics.items():
                if not abs(metric) < BEYOND_USE:
                    raise UsageError(f"Prior {self.name!r}: a trial measured {metric:g} of {name}. Leave it out.")
        described = {
            f"device {name}: {key}": value for name, shape in self.devices.items() for key, value in shape.items()
        }
        for name, value in (described | {f"feature {name}": value for name, value in self.features.items()}).items():
            if not _is_value(value):
                raise UsageError(f"Prior {self.name!r}: {name} is {_shown(value)}. Leave it out.")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics, in name order."""
        return tuple(sorted({name for trial in self.trials for name in trial.metrics}))

    @property
    def measured(self) -> int:
        """How many trials ran."""
        return sum(bool(trial.metrics) for trial in self.trials)

    @property
    def digest(self) -> str:
        """Hash of its content."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The file's text; `from_json` undoes it."""
        content: dict[str, Any] = {"version": VERSION} | asdict(self)
        content["parameters"] = {name: scale.value for name, scale in self.parameters.items()}
        return json.dumps(content, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str, origin: str = "the file") -> PriorTask:
        """The task that a file holds.

        Raises:
            UsageError: it is no prior, or one of a newer version.
        """
        try:
            content = json.loads(text)
            version = content["version"]
            if not isinstance(version, int) or version > VERSION:
                raise UsageError(
                    f"{origin} holds a prior of version {version}, this program reads up to {VERSION}. Update it."
                )
            return cls(
                name=str(content["name"]),
                source=str(content.get("source", "")),
                licence=str(content.get("licence", "")),
                engine=str(content.get("engine", "")),
                devices={str(name): dict(shape) for name, shape in content.get("devices", {}).items()},
                parameters={str(name): Scale(scale) for name, scale in content["parameters"].items()},
                trials=tuple(
                    PriorTrial(
                        config=dict(trial["config"]),
                        metrics={str(name): float(value) for name, value in trial.get("metrics", {}).items()},
                    )
                    for trial in content["trials"]
                ),
                features={str(name): float(value) for name, value in content.get("features", {}).items()},
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
            problem = f"{origin} holds no prior: {type(error).__name__} {error}."
            raise UsageError(f"{problem} Export it again, or remove it.") from error


def _is_value(value: object) -> bool:
    """Whether it can be a parameter's value, or describe something."""
    return isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) < BEYOND_USE)


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < BEYOND_USE else "a number of hundreds of digits"
    return shortened(text)


def read_prior(path: Path) -> PriorTask:
    """The prior in a file, gzipped or not.

    Raises:
        UsageError: it cannot be read, or is no prior.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read: {error}. Name a file that `tune prior export` wrote.") from error
    return PriorTask.from_json(text, str(path))

"""The study: everything that decides what is tuned, for whom, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from tuner.errors import UsageError
from tuner.objective import Objective
from tuner.parameter import Value
from tuner.ports import ServingTask
from tuner.slo import Slo
from tuner.trial import TrialPlan

AUTO: Final = "auto"
"""Sampler: our own. Runner: containers where a Docker daemon answers, else local processes. Priors: the library."""

META: Final = "meta"
"""Sampler: our own that stands on earlier tasks, even where there are none."""

NONE: Final = "none"
"""Priors: use no earlier tasks."""

RANDOM: Final = "random"
"""Sampler: random without replacement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChoice:
    """An adapter by name, with its options as JSON values."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A parameter whose domain the user narrows or replaces.

    Attributes:
        parameter: its name.
        values: the values to search; a single one fixes the parameter.
    """

    parameter: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a study may spend; it ends when the first limit is reached.

    Attributes:
        trials: configurations measured (repeats that confirm the winner come on top).
        seconds: wall time of trials, s.
        usd: price of the devices over the time of the trials, USD.
    """

    trials: int | None = None
    seconds: float | None = None
    usd: float | None = None

    def __post_init__(self) -> None:
        for name in ("trials", "seconds", "usd"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"The budget of {value} {name} allows nothing. Write more than 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """When the search ends before its budget does, as little is left to find.

    Attributes:
        after: search trials before which it never does.
        gain: it ends when the expected gain of one more trial, as a share of the incumbent, falls below this.
        probability: it ends when the incumbent is within `tolerance` of the best with at least this probability.
        tolerance: share of the best.
    """

    after: int = 10
    gain: float = 0.05
    probability: float = 0.95
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        if self.after < 1:
            raise UsageError(f"The search may stop after {self.after} trials. Write 1 or more.")
        if not 0 < self.tolerance < 1:
            raise UsageError(
                f"A tolerance of {self.tolerance:.0%} says nothing. Write more than 0% and less than 100%."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How the space is searched.

    Attributes:
        overrides: domains that the user sets.
        budget: what may be spent.
        sampler: `auto` (our own), `meta`, `random`, or any Optuna sampler by name.
        priors: earlier tasks: `auto` (those of the user's library that fit), `none`, or a file or folder of them.
        remember: whether the finished study is added to the library.
        stop: when the search ends before its budget; `None` for never.
        predictions: whether the performance model guides the search, where it can predict.
        early_end: whether loads end early once their trial surely misses the SLO, or cannot beat the best so far.
        confirmations: how often winner and default are measured again, in turn, before the winner is
            recommended.
        seed: of every random choice.
    """

    overrides: tuple[Override, ...] = ()
    budget: Budget = field(default_factory=lambda: Budget(trials=20))
    sampler: str = AUTO
    priors: str = AUTO
    remember: bool = False
    stop: Stopping | None = field(default_factory=Stopping)
    predictions: bool = True
    early_end: bool = True
    confirmations: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A tuning study, checked: what `tuner.load_study` makes of a file.

    Attributes:
        name: under which the storage knows it.
        task: model, devices and workload.
        engine, runner: adapters by name, with their options.
        slos: every bound must hold.
        objectives: one, or two for a Pareto front.
        search: how the space is searched.
        plan: how one configuration is measured.
        storage: Optuna storage URL.
        exports: formats to write when the study ends, each with its folder or file.
    """

    name: str
    task: ServingTask
    engine: AdapterChoice
    runner: AdapterChoice
    slos: tuple[Slo, ...]
    objectives: tuple[Objective, ...]
    search: SearchOptions
    plan: TrialPlan
    storage: str = field(repr=False)  # may hold a password
    exports: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of all that makes two trials comparable.

        Budget, sampler, seed, storage, exports, confirmations and the runner's options may change between
        runs of one study; model, devices, workload, engine, the kind of runner, objectives, SLOs, domains and
        the trial plan may not.
        """
        text = json.dumps(_comparable(_ADAPTER.dump_python(self, mode="json")), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def definition_json(study: Study) -> str:
    """The study as JSON, without its storage URL, which may hold a password."""
    parts = _ADAPTER.dump_python(study, mode="json")
    parts["storage"] = ""
    return json.dumps(parts)


def study_from_json(text: str, storage: str) -> Study:
    """The study that `definition_json` wrote, in the storage it was found in."""
    return _ADAPTER.validate_python({**json.loads(text), "storage": storage})


def with_stored_runner(study: Study, stored_json: str) -> Study:
    """The study with the runner that the trials of a stored one ran in."""
    return replace(study, runner=replace(study.runner, name=json.loads(stored_json)["runner"]["name"]))


def differences(stored_json: str, wanted: Study) -> list[str]:
    """What makes a stored study's trials and another's incomparable, as `key: stored, now wanted`.

    Args:
        stored_json: what `definition_json` wrote, maybe in another version.
        wanted: the other study.
    """
    before, after = (
        {key: value for key, value in _leaves(_comparable(json.loads(text))) if not key.startswith(_DERIVED)}
        for text in (stored_json, definition_json(wanted))
    )
    return [
        f"{key}: {before.get(key, 'absent')}, now {after.get(key, 'absent')}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def is_moved(stored_json: str, wanted: Study, storage_file: Path) -> bool:
    """Whether nothing differs from a stored study but the folder that it lies in.

    Its storage came along, and nothing is left where its files were: of a study that was copied nothing says which of
    the two the trials are of.

    Args:
        stored_json: what `definition_json` wrote.
        wanted: the same study, as its file reads now.
        storage_file: where the storage lies now.
    """
    before, after = (dict(_leaves(_comparable(json.loads(text)))) for text in (stored_json, definition_json(wanted)))
    if before.keys() != after.keys():
        return False
    changed = [(json.loads(before[key]), json.loads(now)) for key, now in after.items() if before[key] != now]
    if not all(isinstance(value, str) and Path(value).is_absolute() for pair in changed for value in pair):
        return False
    paths = [(Path(then), Path(now)) for then, now in changed]
    if any(_is_there(then) for then, _ in paths):
        return False
    old_folders = ({_old_folder(then, now, folder) for then, now in paths} for folder in storage_file.parents)
    return any(len(folders) == 1 and None not in folders for folders in old_folders)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # not for us to see
        return False


def _old_folder(then: Path, now: Path, folder: Path) -> Path | None:
    """The folder in which `then` is what `now` is in `folder`."""
    if not now.is_relative_to(folder):
        return None
    inside = now.relative_to(folder).parts
    return Path(*then.parts[: -len(inside)]) if inside and then.parts[-len(inside) :] == inside else None


def _comparable(definition: dict[str, Any]) -> dict[str, Any]:
    """The parts of a study's JSON that its fingerprint is made of."""
    parts = {key: part for key, part in definition.items() if key not in ("storage", "exports", "name")}
    task = {key: part for key, part in parts["task"].items() if key != "serves"}
    plan = {key: part for key, part in parts["plan"].items() if key != "limits"}
    return parts | {
        "task": task,
        "plan": plan,
        "search": parts["search"]["overrides"],
        "runner": parts["runner"]["name"],
    }


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """The scalars of a JSON value, each with its dotted key."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in items:
            yield from _leaves(part, f"{key}.{name}" if key else str(name))
    else:
        yield key, json.dumps(value)


_DERIVED: Final = ("plan.workload", "plan.slos", "plan.metrics")
_ADAPTER: Final = TypeAdapter(Study)

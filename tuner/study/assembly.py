"""A study from the sections of its file: names looked up, models and traces found, everything compared."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tuner.device import DeviceKind, DeviceType
from tuner.errors import (
    ModelError,
    OptionsError,
    SpaceError,
    TunerError,
    UnavailableError,
    UnknownNameError,
    UsageError,
    did_you_mean,
)
from tuner.export.bundle import formats
from tuner.objective import Objective
from tuner.parameter import Value
from tuner.ports import ModelSource, SearchSpace, ServingTask
from tuner.priors.library import read_priors
from tuner.space import Space
from tuner.strategies.candidates import Candidates
from tuner.study import adapters
from tuner.study.coherence import (
    Placed,
    check_bounds,
    check_objectives,
    check_prices,
    check_reported,
    check_searched_rate,
    check_streamed,
)
from tuner.study.definition import (
    AUTO,
    META,
    NONE,
    RANDOM,
    AdapterChoice,
    Budget,
    Override,
    SearchOptions,
    Stopping,
    Study,
)
from tuner.study.faults import Faults, shown, split_message
from tuner.study.option_paths import located, path_at
from tuner.study.sections import (
    AdapterSection,
    DeviceSection,
    RangeSection,
    SearchSection,
    StopSection,
    TrialSection,
)
from tuner.study.space import Range, apply_overrides, overridden, tunable, values_in
from tuner.study.storage_url import default_storage, storage_url
from tuner.study.structure import ReadSections
from tuner.study.traffic import workload as read_workload
from tuner.study.yaml_lines import Place
from tuner.trial import TrialPlan
from tuner.workload import Workload

_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_CLASS_PATH: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_MODEL_FILES: Final = frozenset({".onnx", ".pt", ".pth", ".plan", ".safetensors", ".gguf", ".bin", ".json", ".pb"})
_ENOUGH: Final = 100_000
"""Configurations enumerated to see that the space is not empty."""


class Assembly:
    """Puts a study together; what stands in the way goes to `faults`.

    Args:
        read: the sections of the file.
        source: absolute path of the file, which need not exist; other paths are relative to its folder.
        environment: variables that the file may name.
        faults: those already found, and where more are added.
        serves: as `ServingTask.serves`.
    """

    def __init__(
        self, read: ReadSections, source: Path, environment: Mapping[str, str], faults: Faults, serves: bool = True
    ) -> None:
        self._read = read
        self._sections = read.sections
        self._folder = source.parent
        self._source = source
        self._environment = environment
        self._faults = faults
        self._serves = serves

    def study(self) -> Study | None:
        """The study; `None` when there are faults."""
        sections, faults = self._sections, self._faults
        name = sections.name or _name_of(self._source)
        model = self._model() if self._has("model") else None
        devices = self._devices() if self._has("devices") else []
        traffic = read_workload(sections.workload, self._folder, faults) if self._has("workload") else None
        slos = self._listed("slo", sections.slo)
        objectives = self._listed("objective", sections.objective) if self._has("objective") else []
        choice, engine = self._engine() if self._has("engine") else (None, None)
        runner = self._runner()
        exports = self._exports(engine)
        budget = _budget(sections.search)
        storage = ""
        with faults.at(("storage",)):
            storage = self._storage(name)
        plan = None if traffic is None else self._plan(sections.trial, traffic, slos, objectives)
        if engine is not None and choice is not None:
            check_reported([*slos, *objectives], engine.reports, choice.name, faults)
        check_objectives(objectives, slos, faults)
        arrival = sections.workload.arrival if self._has("workload") else None
        if arrival is not None:
            check_streamed([*slos, *objectives], sections.workload.requests, faults)
            check_searched_rate(objectives, slos, arrival, faults)
        check_bounds(slos, arrival, sections.trial, faults)
        check_prices(devices, [*objectives, *slos], budget, faults)
        task = None
        if model is not None and traffic is not None and devices and not faults.hides(("devices",)):
            offered = tuple(device for _, device in devices)
            task = ServingTask(model=model, devices=offered, workload=traffic, serves=self._serves)
        overrides: tuple[Override, ...] = ()
        if engine is not None and choice is not None and task is not None:
            space = self._space(engine, choice.name, task)
            overrides = () if space is None else self._overrides(space)
        self._check_sampler(sections.search.sampler)
        priors = self._priors(sections.search.priors)
        stop = self._stopping(sections.search)
        if faults.found:
            return None
        assert choice is not None
        assert task is not None
        assert plan is not None
        return Study(
            name=name,
            task=task,
            engine=choice,
            runner=runner,
            slos=plan.slos,
            objectives=tuple(entry.what for entry in objectives if isinstance(entry.what, Objective)),
            search=SearchOptions(
                overrides=overrides,
                budget=budget,
                sampler=sections.search.sampler,
                priors=priors,
                remember=sections.search.remember,
                stop=stop,
                predictions=sections.search.predictions,
                early_end=sections.search.early_end,
                confirmations=sections.search.confirmations,
                seed=sections.search.seed,
            ),
            plan=plan,
            storage=storage,
            exports=exports,
        )

    def _has(self, name: str) -> bool:
        return name not in self._read.unread

    def _listed(self, name: str, entries: object) -> list[Placed]:
        """Bounds or objectives, written as one or as a list, with their places."""
        if not isinstance(entries, list):
            return [Placed(place=(name,), what=entries)]  # type: ignore[arg-type]
        return [
            Placed(place=(name, self._read.position(name, index)), what=entry) for index, entry in enumerate(entries)
        ]

    def _model(self) -> ModelSource | None:
        section = self._sections.model
        if not isinstance(section, str) and hasattr(section, "hub"):
            return ModelSource(name=section.hub)
        written = section if isinstance(section, str) else section.path
        path = path_at(self._folder, written)
        if _exists(path):
            return ModelSource(name=written, path=path.resolve())
        looks_like_path = written.startswith(("./", "../", "/", "~")) or written.endswith("/")
        if isinstance(section, str) and not looks_like_path and path.suffix.lower() not in _MODEL_FILES:
            if _HUB_NAME.fullmatch(written):
                return ModelSource(name=written)
            problem = f"{shown(written)} is no path that exists, and no name of a model."
            self._faults.add(("model",), problem, "Write a path such as ./model.onnx, or a name such as owner/model.")
            return None
        neighbours = _names_in(path.parent)
        remedy = f"Write a path relative to {self._folder}, or {{hub: owner/model}}."
        if neighbours and (near := did_you_mean(path.name, neighbours)).startswith("Did"):
            remedy = near
        place = ("model",) if isinstance(section, str) else ("model", "path")
        self._faults.add(place, f"There is no {path}.", remedy)
        return None

    def _devices(self) -> list[tuple[Place, DeviceType]]:
        devices: list[tuple[Place, DeviceType]] = []
        named: dict[str, Place] = {}
        for index, section in enumerate(self._sections.devices):
            place: Place = ("devices", self._read.position("devices", index))
            if section.name in named:
                problem = f"The device {section.name!r} is given twice."
                self._faults.add((*place, "name"), problem, "Give each device type a name of its own.")
                continue
            named[section.name] = place
            with self._faults.at(place):
                devices.append((place, _device(section)))
        return devices

    def _engine(self) -> tuple[AdapterChoice, SearchSpace | None]:
        choice = self._choice(self._sections.engine, adapters.SEARCH_SPACES)
        engine: SearchSpace | None = None
        with self._adapter("engine", f"engine {choice.name!r}"):
            engine = adapters.search_space(choice.name, choice.options)
        return choice, engine

    def _runner(self) -> AdapterChoice:
        choice = self._choice(self._sections.runner, adapters.RUNNERS)
        if choice.name == AUTO:
            if choice.options:
                known = ", ".join(adapters.names(adapters.RUNNERS))
                self._faults.add(("runner",), "runner: auto takes no options.", f"Write one by name: {known}.")
            return choice
        with self._adapter("runner", f"runner {choice.name!r}", AUTO):
            adapters.runner(choice.name, choice.options)
        return choice

    def _choice(self, section: str | AdapterSection, group: str) -> AdapterChoice:
        if isinstance(section, str):
            return AdapterChoice(name=section)
        options = dict(section.model_extra or {})
        with contextlib.suppress(Exception):  # what is wrong with the adapter is reported where it is made
            options = located(options, adapters.options_schema(group, section.name), self._folder)
        return AdapterChoice(name=section.name, options=options)

    @contextlib.contextmanager
    def _adapter(self, section: str, what: str, *others: str) -> Iterator[None]:
        """Turns what an adapter raises when it is made into faults of its section."""
        try:
            yield
        except OptionsError as error:
            remedy = f"`tune schema` describes the options of every {section}."
            found = [((section, *_parts(fault.where)), fault.problem, fault.remedy or remedy) for fault in error.faults]
            self._faults.add_together((), found)
        except UnknownNameError as error:
            group = adapters.SEARCH_SPACES if section == "engine" else adapters.RUNNERS
            known = (*adapters.names(group), *others)
            problem = f"Unknown {error.kind} {shown(error.name)}."
            self._faults.add((section,), problem, did_you_mean(error.name, known))
        except TunerError as error:
            self._faults.add((section,), *split_message(str(error)))
        except Exception as error:  # an adapter may come from anywhere; its faults must not look like ours
            self._faults.add((section,), *_broken(what, error))

    def _exports(self, engine: SearchSpace | None) -> dict[str, str]:
        exports: dict[str, str] = {}
        for form, path in self._sections.export.items():
            if engine is not None and form not in formats(engine):
                problem = f"Unknown format {shown(form)} of this engine."
                self._faults.add(("export", form), problem, did_you_mean(form, formats(engine)))
                continue
            exports[form] = str(self._folder / path)
        return exports

    def _storage(self, name: str) -> str:
        if self._sections.storage is None:
            return default_storage(self._folder, name)
        return storage_url(self._sections.storage, self._folder, self._environment)

    def _plan(
        self, section: TrialSection, traffic: Workload, slos: Sequence[Placed], objectives: Sequence[Placed]
    ) -> TrialPlan | None:
        with self._faults.at(("trial",)):
            return TrialPlan(
                workload=traffic,
                slos=tuple(entry.what for entry in slos if not isinstance(entry.what, Objective)),
                metrics=tuple(dict.fromkeys(entry.ref for entry in (*objectives, *slos))),
                warmup_s=section.warmup,
                windows=section.windows,
                window_s=section.window,
                request_timeout_s=section.request_timeout,
                max_error_rate=section.max_error_rate,
                start_deadline_s=section.start_deadline,
                stop_deadline_s=section.stop_deadline,
                seed=section.seed,
            )
        return None  # type: ignore[unreachable] # `at` swallows the error

    def _space(self, engine: SearchSpace, name: str, task: ServingTask) -> Space | None:
        """The engine's own space for the task."""
        try:
            return engine.space(task)
        except ModelError as error:
            self._faults.add_error(("model",), error)
        except (SpaceError, UnavailableError) as error:
            self._faults.add_error(("engine",), error)
        except UsageError as error:
            self._faults.add_error(("workload", "requests"), error)
        except Exception as error:  # as above
            self._faults.add(("engine",), *_broken(f"engine {name!r}", error))
        return None

    def _overrides(self, space: Space) -> tuple[Override, ...]:
        """The domains that the user sets, as listed values; checks that something is left to search."""
        overrides: list[Override] = []
        known = len(self._faults.found)
        for name, entry in self._sections.search.space.items():
            with self._faults.at(("search", "space", name)):
                parameter = tunable(space, name)
                values: Sequence[Value]
                if isinstance(entry, RangeSection):
                    wanted = Range(low=entry.low, high=entry.high, step=entry.step, factor=entry.factor)
                    values = values_in(parameter, wanted)
                else:
                    values = entry if isinstance(entry, list) else (entry,)
                overrides.append(Override(parameter=name, values=overridden(parameter, values).values))
        if len(self._faults.found) == known:
            with self._faults.at(("search", "space")):
                Candidates.of(apply_overrides(space, overrides), limit=_ENOUGH)
        return tuple(overrides)

    def _priors(self, written: str) -> str:
        """The absolute path of the earlier tasks, or the word for them; checks that they can be read."""
        if written in (AUTO, NONE):
            return written
        place: Place = ("search", "priors")
        path = path_at(self._folder, written)
        with self._faults.at(place):
            read_priors(path)
        return str(path)

    def _stopping(self, section: SearchSection) -> Stopping | None:
        written = section.stop
        if isinstance(written, StopSection):
            with self._faults.at(("search", "stop")):
                return Stopping(
                    after=written.after,
                    gain=written.gain,
                    probability=written.probability,
                    tolerance=written.tolerance,
                )
        return None

    def _check_sampler(self, name: str) -> None:
        if name in (AUTO, META, RANDOM):
            return
        from tuner.strategies.foreign import sampler_by_name  # imports optuna: most of a second that few files need

        place: Place = ("search", "sampler")
        if ":" in name:  # anyone's own class: imported when the study runs, as checking runs nobody's code
            if not _CLASS_PATH.fullmatch(name):
                self._faults.add(place, f"{shown(name)} names no class.", "Write module:Class, or TPESampler.")
            return
        with self._faults.at(place):
            sampler_by_name(name, self._sections.search.seed)


def _broken(what: str, error: Exception) -> tuple[str, str]:
    return f"The {what} failed: {type(error).__name__}: {error}.", "Report this to its authors."


def _parts(where: str) -> Place:
    """The place that an adapter calls `args.0` or `args[0]`."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"[.\[\]]+", where) if part)


def _device(section: DeviceSection) -> DeviceType:
    gpus = section.gpus
    if gpus is None:
        gpus = 1 if section.gpu is not None or section.gpu_ids or section.kind is DeviceKind.GPU else 0
    kind = section.kind or (DeviceKind.GPU if gpus else DeviceKind.CPU)
    if kind is DeviceKind.CPU and not gpus and (section.gpu_memory is not None or section.gpu is not None):
        raise UsageError(f"Device {section.name!r} describes a GPU but has none. Write gpus: 1 or more.")
    return DeviceType(
        name=section.name,
        kind=kind,
        price_per_hour=section.price or 0.0,
        cpus=section.cpus,
        cpuset=section.cpuset,
        memory_bytes=None if section.memory is None else round(section.memory),
        gpus=gpus,
        gpu_ids=tuple(section.gpu_ids or ()),
        gpu_model=section.gpu,
        gpu_memory_bytes=None if section.gpu_memory is None else round(section.gpu_memory),
    )


def _budget(section: SearchSection) -> Budget:
    budget = section.budget
    if budget.trials is None and budget.time is None and budget.money is None:
        return SearchOptions().budget
    return Budget(trials=budget.trials, seconds=budget.time, usd=budget.money)


def _name_of(source: Path) -> str:
    """A study's name from its file's: what a name may not hold becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).strip("-._")[:64] or "study"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _names_in(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()][:1000]
    except (OSError, ValueError):
        return []

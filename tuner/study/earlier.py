"""The earlier tasks that a study stands on: chosen when it begins, and fixed in its storage.

The storage keeps the priors themselves, so that what is stored decides what comes next, whatever becomes of
the library; of each also a hash, by which a changed library is noticed.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tuner.errors import UsageError
from tuner.hardware import named_gpu
from tuner.parameter import Value
from tuner.priors.earlier_tasks import UsablePriors, prior_of_trials, usable_priors
from tuner.priors.library import PriorLibrary, read_priors
from tuner.priors.prior_task import PriorTask
from tuner.space import Space
from tuner.step import NumberFormat
from tuner.study.catalogue import catalogue
from tuner.study.definition import AUTO, META, NONE, Study
from tuner.study.read_model import model_features
from tuner.study.result import Result
from tuner.trial import Reason

LEAST_MEASURED: Final = 3
"""Measured trials below which a prior says too little to be used."""
MOST_CONFIGURATIONS: Final = 300
"""Distinct configurations of all priors together: fitting costs the cube of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """Priors of a study, and what to say of them when a run of it begins.

    Attributes:
        priors: those that are used.
        notes: which are not and why, and what has changed in the library since.
    """

    priors: tuple[PriorTask, ...] = ()
    notes: tuple[str, ...] = ()


def chosen(study: Study, space: Space) -> Earlier:
    """What of the library, or of the file that the study names, a new study stands on.

    Raises:
        UsageError: a prior that the study names cannot be read, or is of a newer version.
    """
    if study.search.sampler not in (AUTO, META) or study.search.priors == NONE:
        return Earlier()
    own = study.search.priors == AUTO
    found, notes = _library() if own else (read_priors(Path(study.search.priors)), [])
    if not found:
        return Earlier(notes=tuple(notes))
    if len(study.objectives) > 1:
        return Earlier(notes=("two objectives are searched without earlier tasks",))
    engines = {study.engine.name} if own else {study.engine.name, ""}
    fitting = [prior for prior in found if prior.engine in engines]
    if len(fitting) < len(found) and not own:
        others = ", ".join(prior.name for prior in found if prior not in fitting)
        notes.append(f"left out, of another engine: {others}")
    told = [prior for prior in fitting if prior.measured >= LEAST_MEASURED]
    notes += [
        f"prior {prior.name}: left out, it has {prior.measured} measured trials, fewer than {LEAST_MEASURED}"
        for prior in fitting
        if prior not in told
    ]
    overlapping = usable(study, space, told)
    priors, crowded = _within_limit(overlapping.priors, space)
    notes += overlapping.notes
    if crowded:
        notes.append(f"left out, as there are enough: {', '.join(prior.name for prior in crowded)}")
    return Earlier(priors=priors, notes=tuple(notes))


def _library() -> tuple[tuple[PriorTask, ...], list[str]]:
    """The priors of the user's library, and a note for each that cannot be read."""
    contents = PriorLibrary().read()
    notes = [
        f"prior {name}: left out. {error} To forget it: tune prior remove {shlex.quote(name)}"
        for name, error in contents.unreadable.items()
    ]
    return contents.tasks, notes


def changed(study: Study, used: Sequence[PriorTask]) -> tuple[str, ...]:
    """What has become of the priors of a study that goes on, in words; empty where all is as it was."""
    if not used or study.search.priors == NONE:
        return ()
    library = PriorLibrary()
    now: dict[str, str] = {}
    if study.search.priors == AUTO:
        for name in {prior.name for prior in used} & set(library.names()):
            # One that was damaged since has changed as well.
            with contextlib.suppress(UsageError):
                now[name] = library.get(name).digest
    elif Path(study.search.priors).exists():
        with contextlib.suppress(UsageError):
            now = {prior.name: prior.digest for prior in read_priors(Path(study.search.priors))}
    other = [prior.name for prior in used if now.get(prior.name) != prior.digest]
    if not other:
        return ()
    return (
        f"{', '.join(other)} changed in the library since this study began, or went; it goes on with what it began "
        "with. Give the study another name to begin anew with the library of today.",
    )


def standing_words(priors: Sequence[PriorTask]) -> str:
    """Which earlier tasks a search stands on, in a line."""
    if not priors:
        return "the search stands on no earlier task"
    each = ", ".join(f"{prior.name} ({prior.measured} trials)" for prior in priors)
    weight = f", {1 / len(priors):.0%} each at first" if len(priors) > 1 else ""
    return f"the search stands on {len(priors)} earlier {'task' if len(priors) == 1 else 'tasks'}{weight}: {each}"


def usable(study: Study, space: Space, priors: Sequence[PriorTask]) -> UsablePriors:
    """The priors as earlier tasks of a study of one objective."""
    return usable_priors(priors, space, study.objectives[0], study.slos, study.task.devices)


def device_descriptors(devices: Mapping[str, Mapping[str, Value]]) -> dict[Value, tuple[float, ...]]:
    """Numbers that place device types beside one another: cores, GPUs, their memory, bandwidth and peak.

    Args:
        devices: by name, what each is (`tuner.priors.earlier_tasks.device_shape`).

    Returns:
        By name; without those whose GPU the catalogue does not know.
    """
    found: dict[Value, tuple[float, ...]] = {}
    for name, shape in devices.items():
        gpus = float(shape.get("gpus", 0))
        hardware = named_gpu(str(shape.get("gpu_model", name)), catalogue()) if gpus else None
        if gpus and hardware is None:
            continue
        memory = 0.0 if hardware is None else float(shape.get("gpu_memory_bytes", hardware.memory_bytes))
        bandwidth = 0.0 if hardware is None else hardware.bandwidth_bytes_per_s
        peak = 0.0 if hardware is None else hardware.peak_flops_per_s(NumberFormat.BF16)
        found[name] = (float(shape.get("cpus", 0)), gpus, gpus * memory, gpus * bandwidth, gpus * peak)
    return found


def to_json(priors: Sequence[PriorTask]) -> str:
    """As the storage keeps them; `from_json` undoes it."""
    return json.dumps([{"sha256": prior.digest, "prior": prior.to_json()} for prior in priors])


def from_json(text: str) -> tuple[PriorTask, ...]:
    """What `to_json` wrote.

    Raises:
        UsageError: a newer version wrote it.
    """
    return tuple(PriorTask.from_json(entry["prior"], "the study's storage") for entry in json.loads(text))


def remembered(
    result: Result, space: Space, library: PriorLibrary, name: str | None = None, *, replace: bool = False
) -> Path:
    """Adds a study's trials to a library of earlier tasks: configurations and numbers, and what the model is made of.

    A trial that ended early counts with what its windows showed.

    Args:
        result: of the study.
        space: of the study.
        library: where to.
        name: of the prior; by default the study's, with its id where another study has taken that.
        replace: whether a prior of that name may go; one of this very study always does.

    Returns:
        The file.

    Raises:
        UsageError: nothing was measured, or the name given is taken.
        StorageError: the library refuses.
    """
    study, identity = result.study, result.study_id[:8]
    source = f"study {study.name} ({identity})"
    chosen_name = name or study.name
    if chosen_name in library.names() and _source(library, chosen_name) == source:
        replace = True
    elif chosen_name in library.names() and name is None and not replace:
        chosen_name, replace = f"{chosen_name}-{identity}", True
    trials = [
        (
            record.config,
            {} if record.observed is None else {n: each.value for n, each in record.observed.metrics.items()},
        )
        for record in result.records
        # A load generator at its limit says nothing of the configuration.
        if record.outcome is not None
        and (record.failure is None or record.failure.reason is not Reason.GENERATOR_BOUND)
    ]
    prior = prior_of_trials(
        chosen_name,
        source,
        space,
        trials,
        engine=study.engine.name,
        devices=study.task.devices,
        features=model_features(study.task, result.engine),
    )
    if not prior.measured:
        raise UsageError(f"The study {study.name!r} has no measured trial: there is nothing to learn from.")
    return library.add(prior, replace=replace)


def _source(library: PriorLibrary, name: str) -> str | None:
    """Where a prior comes from; `None` where it cannot be read."""
    try:
        return library.get(name).source
    except UsageError:
        return None


def _within_limit(priors: Sequence[PriorTask], space: Space) -> tuple[tuple[PriorTask, ...], tuple[PriorTask, ...]]:
    """The priors that share most parameters with the space, as many as can be afforded; and the others."""
    order = sorted(priors, key=lambda prior: (-len(set(prior.parameters) & set(space.names)), prior.name))
    kept: list[PriorTask] = []
    known: set[tuple[object, ...]] = set()
    for prior in order:
        more = known | {tuple(sorted(trial.config.items())) for trial in prior.trials}
        if not kept or len(more) <= MOST_CONFIGURATIONS:
            kept.append(prior)
            known = more
    return tuple(kept), tuple(prior for prior in order if prior not in kept)

"""A campaign: many strategies, seeds and recorded tasks; run in parallel, resumed where it was left.

Work is split into portions (a strategy on one target with all seeds; with logs, a strategy and a seed on all
targets of a file, since each study feeds the next). A portion's evaluations are appended to
`evaluations.jsonl` when it is done, so that an interrupted campaign loses only what was running; a resumed one
skips what is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tuner.bench.contenders import contender
from tuner.bench.history import Disturbance, History, HistoryKind, unlike_half
from tuner.bench.recorded_task import RecordedData, RecordedTask, load_recorded
from tuner.bench.replay import Replay, ReplayOptions, problem_of, replay, trimmed
from tuner.bench.task_file import TaskFile
from tuner.errors import RunError, UsageError
from tuner.parameter import Value
from tuner.strategies.listed_problem import EarlierTask
from tuner.whole_file import written_whole

if TYPE_CHECKING:
    from tuner.strategies.meta_prior import HyperparameterCache

EVALUATIONS = "evaluations.jsonl"
BELIEFS = "beliefs.jsonl"
MOVES = "moves.jsonl"
PLAN = "plan.json"
_IDENTITY = {"task", "strategy", "seed", "group"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignPlan:
    """What is to be compared, and how.

    Attributes:
        strategies: names of contenders.
        seeds: each from 0.
        history: what strategies may read of the earlier tasks.
        families: columns that name what is left out together.
        targets: CSV files whose groups are the tasks; none: each group in turn is left out.
        unlike: whether only the least similar half of the earlier tasks may be read.
        options: of every replay.
    """

    strategies: tuple[str, ...]
    seeds: int
    history: History
    families: tuple[str, ...] = ()
    targets: tuple[Path, ...] = ()
    unlike: bool = False
    options: ReplayOptions

    def fingerprint(self) -> dict[str, Any]:
        """What two runs must have in common for their results to be joined."""
        return {
            "history": str(self.history),
            "families": list(self.families),
            "targets": [str(path) for path in self.targets],
            "unlike": self.unlike,
            "options": asdict(self.options),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """A piece of work that one process does: a strategy on some targets, in this order."""

    task_file: str
    strategy: str
    seeds: tuple[int, ...]
    targets: tuple[tuple[Value, ...], ...]

    def keys(self) -> Iterator[tuple[str, str, int, str]]:
        """Identities of its replays."""
        for target in self.targets:
            for seed in self.seeds:
                yield replay_key(self.task_file, self.strategy, seed, target)


def replay_key(task: str, strategy: str, seed: int, group: Sequence[Value]) -> tuple[str, str, int, str]:
    """Identity of one replay."""
    return task, strategy, seed, json.dumps(list(group))


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignData:
    """The recorded data of one task file: what is searched, and what came earlier."""

    earlier: RecordedData
    targets: RecordedData

    @classmethod
    def load(cls, task_file: TaskFile, plan: CampaignPlan) -> CampaignData:
        """Reads both.

        Raises:
            StudyFileError: the data does not fit the task file.
        """
        earlier = load_recorded(task_file, families=plan.families)
        targets = load_recorded(task_file, families=plan.families, data=plan.targets) if plan.targets else earlier
        return cls(earlier=earlier, targets=targets)

    def digest(self) -> str:
        """Changes with whatever decides which rows there are and what they answer."""
        file = self.targets.task_file
        meaning = (file.where, file.group_by, file.parameters, file.objective, file.direction, file.limits)
        found = hashlib.sha256(repr((meaning, file.feasible, file.min_rows, self.earlier.descriptors)).encode())
        recorded = (self.earlier,) if self.targets is self.earlier else (self.earlier, self.targets)
        for task in (task for data in recorded for task in data.tasks):
            found.update(repr((task.name, task.family, task.rows, task.numbers, task.features)).encode())
            for values in (task.ran, task.objective, task.constraints):
                found.update(values.tobytes())
        return found.hexdigest()

    def earlier_than(self, target: RecordedTask) -> list[RecordedTask]:
        """The earlier tasks of a target: all groups, without the target's family, in whichever file it lies."""
        return [task for task in self.earlier.tasks if task.family != target.family]


def portions(data: CampaignData, plan: CampaignPlan) -> list[Portion]:
    """The work of one task file, in a fixed order."""
    name = data.targets.task_file.name
    groups = [task.name for task in data.targets.targets]
    work = []
    for strategy in plan.strategies:
        if plan.history.kind is HistoryKind.LOGS:
            work += [
                Portion(task_file=name, strategy=strategy, seeds=(seed,), targets=_arrival_order(groups, seed))
                for seed in range(plan.seeds)
            ]
        else:
            seeds = tuple(range(plan.seeds))
            work += [Portion(task_file=name, strategy=strategy, seeds=seeds, targets=(group,)) for group in groups]
    return work


def run_campaign(data: Sequence[CampaignData], plan: CampaignPlan, folder: Path, jobs: int) -> Iterator[str]:
    """Runs what is not done yet; yields a line for people after every portion.

    Raises:
        UsageError: the folder cannot be written, is being written, or holds results of another plan or of other data.
        RunError: a process was killed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} is no folder, and cannot be made: {error.strerror}. Give another --out.") from error
    with _alone(folder):
        yield from _run(data, plan, folder, jobs)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other campaigns out of a folder while one writes there; the lock goes with its process.

    Raises:
        UsageError: another is there already.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"Another run is writing to {folder}. Wait for it, or give another --out.") from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def _run(data: Sequence[CampaignData], plan: CampaignPlan, folder: Path, jobs: int) -> Iterator[str]:
    done = _resume(folder, plan, {each.targets.task_file.name: each.digest() for each in data})
    by_name = {each.targets.task_file.name: each for each in data}
    work = [
        portion
        for each in data
        for portion in portions(each, plan)
        if any(key not in done for key in portion.keys())  # noqa: SIM118
    ]
    if jobs == 1:
        cache: HyperparameterCache = {}
        for number, portion in enumerate(work, start=1):
            replays = _run_portion(by_name[portion.task_file], plan, portion, cache)
            yield _keep(folder, portion, replays, done, number, len(work))
        return
    others = set(active_children())
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin_process) as pool:
        futures = {
            pool.submit(_run_portion, by_name[portion.task_file], plan, portion, {}): portion for portion in work
        }
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                yield _keep(folder, futures[future], future.result(), done, number, len(work))
        except BrokenProcessPool as error:
            problem = "A process of --jobs was killed, perhaps for want of memory."
            raise RunError(f"{problem} Run again with fewer --jobs: what is done is kept in {folder}.") from error
        finally:
            # An interruption waits neither for what is running nor for what is left.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(active_children()) - others:
                process.terminate()


def _begin_process() -> None:
    """Ctrl-C is the parent's to answer; a process whose parent is gone ends as well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _arrival_order(groups: Sequence[tuple[Value, ...]], seed: int) -> tuple[tuple[Value, ...], ...]:
    order = np.random.default_rng([seed, 7]).permutation(len(groups))
    return tuple(groups[at] for at in order)


def _run_portion(
    data: CampaignData, plan: CampaignPlan, portion: Portion, cache: HyperparameterCache
) -> list[tuple[tuple[str, str, int, str], Replay]]:
    tasks = {task.name: task for task in data.targets.targets}
    factory = contender(portion.strategy, cache)
    logs: list[tuple[RecordedTask, EarlierTask]] = []
    replays = []
    for name in portion.targets:
        task = tasks[name]
        for seed in portion.seeds:
            earlier = _history(data, plan, task, seed, logs)
            descriptors = {key: dict(value) for key, value in data.earlier.descriptors.items()}
            problem = problem_of(task, data.targets.task_file.parameters, earlier, descriptors)
            found = replay(portion.task_file, task, problem, portion.strategy, factory, seed, plan.options)
            replays.append((replay_key(portion.task_file, portion.strategy, seed, name), found))
            if plan.history.kind is HistoryKind.LOGS:
                logs.append((task, trimmed(found.log, plan.history.trials)))
    return replays


def _history(
    data: CampaignData,
    plan: CampaignPlan,
    target: RecordedTask,
    seed: int,
    logs: Sequence[tuple[RecordedTask, EarlierTask]],
) -> list[EarlierTask]:
    if plan.history.kind is HistoryKind.NONE:
        return []
    if plan.history.kind is HistoryKind.LOGS:
        return [log for task, log in logs if task.family != target.family or not plan.families]
    earlier = data.earlier_than(target)
    kept = unlike_half(target, earlier) if plan.unlike and earlier else earlier
    disturbance: Disturbance = plan.options.disturbance
    return [
        disturbance.on_table(task.earlier(), np.random.default_rng([seed, 11, number]))
        for number, task in enumerate(kept)
    ]


def _resume(folder: Path, plan: CampaignPlan, digests: Mapping[str, str]) -> set[tuple[str, str, int, str]]:
    """The replays that are done; half-written lines at the end of an interrupted file are cut off."""
    path = folder / PLAN
    fingerprint = json.loads(json.dumps(plan.fingerprint()))
    tasks: dict[str, str] = {}
    if path.exists():
        try:
            found = json.loads(path.read_bytes())
            tasks = dict(found.pop("tasks", {}))
        except (ValueError, AttributeError, TypeError) as error:
            raise UsageError(f"{path} is damaged: {error}. Give another --out, or remove it.") from error
        differing = sorted(key for key in fingerprint if found.get(key) != fingerprint[key])
        differing += [f"task file {name}" for name in digests if tasks.get(name, digests[name]) != digests[name]]
        if differing:
            raise UsageError(
                f"{folder} holds results with other settings of {', '.join(differing)}. "
                "Give another --out, or remove it."
            )
    text = json.dumps(fingerprint | {"tasks": {**tasks, **digests}}, indent=2) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with written_whole(path) as file:
            file.write(text)
    asks = {_key(entry): entry.get("asks") for entry in _entries(folder / MOVES)}
    written = Counter(_key(entry) for entry in _entries(folder / EVALUATIONS))
    done = {key for key, count in asks.items() if written[key] == count}
    for name in (EVALUATIONS, BELIEFS, MOVES):
        kept = [json.dumps(entry, separators=(",", ":")) for entry in _entries(folder / name) if _key(entry) in done]
        with written_whole(folder / name) as file:
            file.writelines(f"{line}\n" for line in kept)
    return done


def _entries(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines; an interrupted process may have left half of one."""
    entries = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.keys() >= _IDENTITY and isinstance(entry["group"], list):
                entries.append(entry)
    return entries


def _key(entry: dict[str, Any]) -> tuple[str, str, int, str]:
    return replay_key(entry["task"], entry["strategy"], entry["seed"], entry["group"])


def _keep(
    folder: Path,
    portion: Portion,
    replays: Sequence[tuple[tuple[str, str, int, str], Replay]],
    done: set[tuple[str, str, int, str]],
    number: int,
    total: int,
) -> str:
    """Appends a portion's results, the line that marks a replay as done last."""
    steps = []
    with (
        (folder / EVALUATIONS).open("a", encoding="utf-8") as evaluations,
        (folder / BELIEFS).open("a", encoding="utf-8") as beliefs,
        (folder / MOVES).open("a", encoding="utf-8") as moves,
    ):
        for key, found in replays:
            if key in done:
                continue
            evaluations.writelines(f"{evaluation.to_json()}\n" for evaluation in found.evaluations)
            evaluations.flush()
            beliefs.writelines(json.dumps(asdict(belief)) + "\n" for belief in found.beliefs)
            beliefs.flush()
            asks = len(found.evaluations)
            entry = {"task": key[0], "strategy": key[1], "seed": key[2], "group": json.loads(key[3])}
            moves.write(json.dumps(entry | {"asks": asks, "moved": found.moved}) + "\n")
            done.add(key)
            steps.append(asks)
    group = "/".join(map(str, portion.targets[0])) if len(portion.targets) == 1 else f"{len(portion.targets)} groups"
    return f"{number}/{total} {portion.task_file} {portion.strategy} {group}: {sum(steps)} evaluations"

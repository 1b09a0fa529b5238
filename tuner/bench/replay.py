"""The replay: recorded tasks answer the questions of a strategy, and every evaluation is written down."""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from tuner.bench.history import Disturbance
from tuner.bench.recorded_task import RecordedTask
from tuner.parameter import Value
from tuner.strategies.listed_problem import Answer, EarlierTask, ListedParameter, ListedProblem

if TYPE_CHECKING:
    from tuner.bench.contenders import StrategyFactory


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation: a line of `evaluations.jsonl`.

    Attributes:
        task: name of the task file.
        group: values that name the group.
        strategy, seed: who asked.
        step: from 1.
        config: parameter to value, as in the CSV.
        row: position of the answering row in the concatenated data files, from 0.
        objective: the answered value, `None` when the configuration did not run.
        holds: whether the answer ran and was within every bound.
        ran: whether there are metrics.
        suggest_s: time that the strategy took to suggest it, s.
    """

    task: str
    group: tuple[Value, ...]
    strategy: str
    seed: int
    step: int
    config: dict[str, Value]
    row: int
    objective: float | None
    holds: bool
    ran: bool
    suggest_s: float

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What a strategy that knows its own uncertainty believed after a step: a line of `beliefs.jsonl`.

    Attributes:
        task, group, strategy, seed, step: as of `Evaluation`.
        within: probability that the best so far is within 5 % of the optimum.
        expected_gain: of one more trial.
        right: whether the best so far is within 5 %.
        chance: probability of the configuration asked in this step to be within 5 %, as believed before; `None` where
            it was asked for another reason.
        hit: whether it is.
    """

    task: str
    group: tuple[Value, ...]
    strategy: str
    seed: int
    step: int
    within: float
    expected_gain: float | None
    right: bool
    chance: float | None
    hit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How a task is replayed.

    Attributes:
        budget: evaluations at most.
        parallel: trials in flight at a time.
        until: stop once a configuration within this share of the optimum was asked (the harness looks, the strategy
            does not); `None` always spends the budget.
        disturbance: what is added to the answers.
    """

    budget: int = 40
    parallel: int = 1
    until: float | None = None
    disturbance: Disturbance = field(default_factory=Disturbance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What one strategy asked of one task with one seed.

    Attributes:
        evaluations: in the order in which they were asked.
        beliefs: after each, where the strategy has any.
        log: the trials as a later task may read them.
        moved: asks that had to be moved to the nearest recorded row.
    """

    evaluations: tuple[Evaluation, ...]
    beliefs: tuple[Belief, ...]
    log: EarlierTask
    moved: int


class Prospects(Protocol):
    """What a strategy believes: see `tuner.strategies.meta_search.MetaProspects`."""

    @property
    def best(self) -> int | None: ...

    @property
    def within(self) -> float: ...

    @property
    def expected_gain(self) -> float: ...


@runtime_checkable
class Believing(Protocol):
    """A strategy that says how sure it is."""

    @property
    def chance(self) -> float | None:
        """Of the last row asked, as `tuner.strategies.meta_search.MetaSearch.chance`."""

    def prospects(self) -> Prospects: ...


def problem_of(
    task: RecordedTask,
    parameters: Sequence[ListedParameter],
    earlier: Sequence[EarlierTask],
    descriptors: dict[str, dict[Value, tuple[float, ...]]] | None = None,
) -> ListedProblem:
    """What a strategy may know of a recorded task."""
    return ListedProblem(
        parameters=tuple(parameters),
        rows=task.configurations,
        direction=task.direction,
        bounds=task.bounds,
        earlier=tuple(earlier),
        features=task.features,
        descriptors=descriptors or {},
    )


def replay(
    task_file: str,
    task: RecordedTask,
    problem: ListedProblem,
    strategy_name: str,
    factory: StrategyFactory,
    seed: int,
    options: ReplayOptions,
) -> Replay:
    """Lets a strategy search a recorded task.

    Which repeat answers, and what the disturbance adds, depends on seed and configuration only, so that all
    strategies meet the same luck.
    """
    strategy = factory(problem, seed)
    recorder = _Recorder(task_file, task, problem, strategy_name, seed, options)
    goal = None if options.until is None else task.within(options.until)
    solved = False
    while not solved and len(recorder.evaluations) < options.budget:
        batch = []
        for _ in range(min(options.parallel, options.budget - len(recorder.evaluations))):
            started = time.perf_counter()
            row = strategy.ask()
            batch.append((row, recorder.answer(row, time.perf_counter() - started)))
            solved = solved or (goal is not None and bool(goal[row]))
        for row, answer in batch:
            strategy.tell(row, answer)
        if isinstance(strategy, Believing):
            recorder.believe(strategy)
        if len(recorder.asked) >= len(problem.rows):
            break
    return Replay(
        evaluations=tuple(recorder.evaluations),
        beliefs=tuple(recorder.beliefs),
        log=recorder.log(),
        moved=int(getattr(strategy, "moved", 0)),
    )


class _Recorder:
    """Answers from the recorded rows, and remembers."""

    def __init__(
        self,
        task_file: str,
        task: RecordedTask,
        problem: ListedProblem,
        strategy: str,
        seed: int,
        options: ReplayOptions,
    ) -> None:
        self.evaluations: list[Evaluation] = []
        self.beliefs: list[Belief] = []
        self.asked: set[int] = set()
        self._task_file = task_file
        self._task = task
        self._problem = problem
        self._strategy = strategy
        self._seed = seed
        self._options = options
        self._answers: list[tuple[int, Answer]] = []
        self._good = task.within(0.05)
        # A stable number for the group: Python's own hash of strings changes from run to run.
        self._stream = zlib.crc32(repr((task_file, task.name)).encode())

    def answer(self, row: int, suggest_s: float) -> Answer:
        """What the configuration did this time."""
        self.asked.add(row)
        visit = sum(earlier == row for earlier, _ in self._answers)
        generator = np.random.default_rng([self._seed, self._stream, row, visit])
        recorded = int(generator.choice(self._task.repeats[row]))
        answer = self._disturbed(recorded, generator)
        self._answers.append((row, answer))
        gain = self._problem.gain(answer)
        self.evaluations.append(
            Evaluation(
                task=self._task_file,
                group=self._task.name,
                strategy=self._strategy,
                seed=self._seed,
                step=len(self.evaluations) + 1,
                config=dict(
                    zip(
                        (parameter.name for parameter in self._problem.parameters), self._problem.rows[row], strict=True
                    )
                ),
                row=self._task.numbers[recorded],
                objective=answer.objective,
                holds=math.isfinite(gain),
                ran=answer.ran,
                suggest_s=round(suggest_s, 6),
            )
        )
        return answer

    def believe(self, strategy: Believing) -> None:
        """Writes down what the strategy believes now."""
        prospects = strategy.prospects()
        self.beliefs.append(
            Belief(
                task=self._task_file,
                group=self._task.name,
                strategy=self._strategy,
                seed=self._seed,
                step=len(self.evaluations),
                within=prospects.within,
                expected_gain=prospects.expected_gain if math.isfinite(prospects.expected_gain) else None,
                right=prospects.best is not None and bool(self._good[prospects.best]),
                chance=strategy.chance,
                hit=bool(self._good[self._answers[-1][0]]),
            )
        )

    def log(self) -> EarlierTask:
        """The trials so far, as a later task may read them."""
        bounds = len(self._problem.bounds)
        return EarlierTask(
            name=tuple(str(value) for value in self._task.name),
            rows=tuple(self._problem.rows[row] for row, _ in self._answers),
            ran=np.array([answer.ran for _, answer in self._answers], dtype=bool),
            objective=np.array(
                [np.nan if answer.objective is None else answer.objective for _, answer in self._answers], dtype=float
            ),
            constraints=np.array(
                [answer.constraints if answer.ran else [np.nan] * bounds for _, answer in self._answers], dtype=float
            ).reshape(len(self._answers), bounds),
            features=self._task.features,
        )

    def _disturbed(self, recorded: int, generator: np.random.Generator) -> Answer:
        disturbance = self._options.disturbance
        if not self._task.ran[recorded] or generator.random() < disturbance.failures:
            return Answer(ran=False)
        factors = np.exp(disturbance.noise * generator.standard_normal(1 + len(self._problem.bounds)))
        return Answer(
            ran=True,
            objective=float(self._task.objective[recorded] * factors[0]),
            constraints=tuple(
                float(value * factor)
                for value, factor in zip(self._task.constraints[recorded], factors[1:], strict=True)
            ),
        )


def trimmed(log: EarlierTask, trials: int) -> EarlierTask:
    """The first `trials` trials of a log."""
    return EarlierTask(
        name=log.name,
        rows=log.rows[:trials],
        ran=log.ran[:trials],
        objective=log.objective[:trials],
        constraints=log.constraints[:trials],
        features=log.features,
    )

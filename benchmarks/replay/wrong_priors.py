"""What earlier tasks that mislead cost: evaluations to within 5 %, against the same search without earlier tasks.

Wrong earlier tasks are the real ones, whole family left out, with their answers shuffled over the configurations,
reversed (the logarithm of every metric mirrored about its mean), or constant.

    python benchmarks/replay/wrong_priors.py benchmarks/replay/tasks/ibm_llm_usd.yaml --seeds 3
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tuner.bench.recorded_task import RecordedData, RecordedTask, load_recorded
from tuner.bench.replay import ReplayOptions, problem_of, replay
from tuner.bench.task_file import read_task_file
from tuner.strategies.listed_problem import EarlierTask, FloatArray, ListedProblem, ListedStrategy
from tuner.strategies.meta_prior import HyperparameterCache
from tuner.strategies.meta_search import MetaSearch

FAMILIES = ("app", "service", "model")
WITHIN = 0.05


class Untold:
    """A search whose beliefs nobody asks for, which saves half of the time."""

    def __init__(self, search: ListedStrategy) -> None:
        self.ask = search.ask
        self.tell = search.tell


def shuffled(task: EarlierTask, generator: np.random.Generator) -> EarlierTask:
    order = generator.permutation(len(task.rows))
    return replace(task, ran=task.ran[order], objective=task.objective[order], constraints=task.constraints[order])


def reversed_(task: EarlierTask, generator: np.random.Generator) -> EarlierTask:
    del generator
    constraints = [_mirrored(column) for column in task.constraints.T]
    return replace(
        task,
        objective=_mirrored(task.objective),
        constraints=np.column_stack([np.empty((len(task.rows), 0)), *constraints]),
    )


def constant(task: EarlierTask, generator: np.random.Generator) -> EarlierTask:
    del generator
    medians = np.nanmedian(task.constraints, axis=0) if task.ran.any() else task.constraints[:1]
    constraints = np.where(task.ran[:, None], medians, np.nan)
    middle = np.nanmedian(task.objective) if task.ran.any() else np.nan
    return replace(task, objective=np.where(task.ran, middle, np.nan), constraints=constraints)


def _mirrored(values: FloatArray) -> FloatArray:
    if np.isfinite(values).any() and np.nanmin(values) > 0:
        logarithms = np.log(values)
        return np.asarray(np.exp(2.0 * np.nanmean(logarithms) - logarithms))
    return 2.0 * np.nanmean(values) - values if np.isfinite(values).any() else values


WRONGS: dict[str, Callable[[EarlierTask, np.random.Generator], EarlierTask] | None] = {
    "none": None,
    "shuffled": shuffled,
    "reversed": reversed_,
    "constant": constant,
}


def evaluations(data: RecordedData, target: RecordedTask, wrong: str, seeds: Sequence[int], budget: int) -> list[int]:
    """Evaluations to within 5 %, by seed; one more than the budget where it was missed."""
    found = []
    cache: HyperparameterCache = {}
    change = WRONGS[wrong]
    for seed in seeds:
        earlier = []
        if change is not None:
            real = [task.earlier() for task in data.tasks if task.family != target.family]
            # The same wrong tasks for all seeds: they share their fit.
            earlier = [change(task, np.random.default_rng([17, at])) for at, task in enumerate(real)]
        descriptors = {name: dict(values) for name, values in data.descriptors.items()}
        problem = problem_of(target, data.task_file.parameters, earlier, descriptors)

        def search(problem: ListedProblem, seed: int) -> ListedStrategy:
            return Untold(MetaSearch(problem, seed, cache=cache))

        options = ReplayOptions(budget=budget, until=WITHIN)
        run = replay(data.task_file.name, target, problem, "meta", search, seed, options)
        good = target.within(WITHIN)
        last = run.evaluations[-1]
        row = target.configurations.index(tuple(last.config.values()))
        found.append(last.step if good[row] else budget + 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=40)
    options = parser.parse_args()
    for path in options.tasks:
        data = load_recorded(read_task_file(path), families=FAMILIES)
        without = 0.0
        for wrong in WRONGS:
            found = np.array(
                [evaluations(data, target, wrong, range(options.seeds), options.budget) for target in data.targets]
            ).ravel()
            without = without or float(found.mean())
            print(
                f"{data.task_file.name:26} {wrong:9} {np.median(found):5g} / {np.percentile(found, 90):4.1f} / "
                f"{found.max():2d}   mean {found.mean():5.2f}   {found.mean() / without:4.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()

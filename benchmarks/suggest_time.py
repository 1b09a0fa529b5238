"""How long the strategy takes to suggest a configuration, against Optuna's and BoTorch's own optimisers.

Each strategy is told the same trials of the same synthetic server and asked for the next configuration, model
fits included; strategies take turns, and medians are reported, with how many times as long as ours the others take.
Ours and Optuna's are told what each configuration that they ask for did, so that every call has a trial more than the
one before.
Optuna's GPSampler and BoTorch's mixed alternating optimiser search the full product of the domains, as they know
neither rules nor conditions.

    python benchmarks/suggest_time.py
    python benchmarks/suggest_time.py --repeats 9 --threads 1
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from botorch import fit_gpytorch_mll
from botorch.acquisition.analytic import LogConstrainedExpectedImprovement
from botorch.models import MixedSingleTaskGP, ModelListGP
from botorch.optim.optimize_mixed import optimize_acqf_mixed_alternating
from gpytorch.mlls import SumMarginalLogLikelihood

from tuner.metric import MetricRef
from tuner.objective import Objective
from tuner.parameter import Condition, Config, Parameter, Scale, powers_of_two
from tuner.slo import Slo, excesses
from tuner.space import Rule, Space
from tuner.strategies.bayesian import BayesianSampler
from tuner.strategies.candidates import Candidates, Rows, config_of, coordinates, levels
from tuner.strategies.foreign import ForeignSampler
from tuner.strategies.history import OUTCOME, History, distributions, outcome_to_json
from tuner.strategies.listed_problem import EarlierTask
from tuner.strategies.meta import MetaSampler
from tuner.strategies.sampler import CandidateSampler
from tuner.trial import Estimate, Infeasible, Measurement, Outcome, Reason

EARLIER_SPEEDS = (0.5, 0.7, 0.8, 1.3, 1.6, 2.0)
EARLIER_TRIALS = 40
SLOW = "BoTorch mixed alternating"
"""Takes the better part of a minute: it has a number of repeats of its own."""
OBJECTIVES = (Objective(MetricRef.parse("throughput")),)
SLOS = (Slo.parse("p99(latency) <= 50 ms"),)


@dataclass(frozen=True, slots=True)
class Contender:
    """A strategy: what suggests a configuration, and what is told afterwards what it did."""

    suggest: Callable[[], Any]
    learn: Callable[[Any], None] = lambda asked: None


def server_space(knobs: tuple[int, ...]) -> Space:
    """A batching server, and further knobs without effect, each with a number of values."""
    batching = (Condition(parameter="batching", values=(True,)),)
    return Space(
        parameters=(
            Parameter(name="device", values=("small", "large"), default="small"),
            Parameter(name="max_batch_size", values=powers_of_two(1, 256), default=8, scale=Scale.LOG),
            Parameter(name="batching", values=(False, True), default=False),
            Parameter(
                name="queue_delay_us",
                values=(0, 100, 200, 500, 1000, 2000, 5000),
                default=0,
                scale=Scale.LOG,
                active_when=batching,
            ),
            Parameter(name="instances", values=tuple(range(1, 9)), default=1, scale=Scale.LINEAR),
            Parameter(name="threads", values=tuple(range(1, 21)), default=1, scale=Scale.LINEAR),
            Parameter(
                name="preferred", values=("none", "quarter", "half", "full"), default="none", active_when=batching
            ),
            *(
                Parameter(name=f"knob_{n}", values=tuple(range(count)), default=0, scale=Scale.LINEAR)
                for n, count in enumerate(knobs)
            ),
        ),
        rules=(
            Rule(
                over=("instances", "threads", "device"),
                holds=lambda instances, threads, device: instances * threads <= (48 if device == "small" else 96),
                says="instances times threads must fit the device",
            ),
        ),
    )


def served(config: Config) -> Outcome:
    """What the synthetic server does."""
    batch = int(config["max_batch_size"]) if config["batching"] else 1
    instances, threads = int(config["instances"]), int(config["threads"])
    cores = 16 if config.device == "small" else 32
    if batch * instances > 400:
        return Infeasible(reason=Reason.OUT_OF_MEMORY, message="killed")
    delay_s = float(config.get("queue_delay_us") or 0) * 1e-6
    busy = min(instances * threads, cores) ** 0.8 / (1 + max(0, instances * threads - cores) / cores)
    values = {
        "throughput": 60 * batch / (batch + 4) * busy * (1 + 100 * delay_s),
        "p99(latency)": 0.006 * (1 + batch / 16) * (1 + instances / 6) + 5 * delay_s,
    }
    return Measurement(
        metrics={name: Estimate(value=v, low=v, high=v, std_error=0.02 * v) for name, v in values.items()}
    )


def told(candidates: Candidates, count: int, seed: int) -> optuna.Study:
    """A study in memory with the default and random trials."""
    space = candidates.space
    study = optuna.create_study(direction="maximize")
    others = np.random.default_rng(seed).choice(len(candidates), count - 1, replace=False)
    for position in (candidates.default_position, *others):
        study.add_trial(told_trial(space, candidates.config(int(position))))
    return study


def told_trial(space: Space, config: Config) -> optuna.trial.FrozenTrial:
    """A finished trial of a configuration."""
    outcome = served(config)
    failed = isinstance(outcome, Infeasible)
    return optuna.create_trial(
        params=space.complete(config),
        distributions=distributions(space),
        user_attrs={OUTCOME: outcome_to_json(outcome)},
        state=optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE,
        value=None if isinstance(outcome, Infeasible) else outcome.metrics["throughput"].value,
        constraints=None if isinstance(outcome, Infeasible) else excesses(SLOS, outcome.values()),
    )


def earlier_tasks(candidates: Candidates) -> list[EarlierTask]:
    """What earlier studies of slower and faster servers left behind."""
    space, generator = candidates.space, np.random.default_rng(7)
    tasks = []
    for speed in EARLIER_SPEEDS:
        configs = [candidates.config(int(at)) for at in generator.choice(len(candidates), EARLIER_TRIALS, False)]
        outcomes = [served(config) for config in configs]
        values = np.array(
            [[math.nan, math.nan] if isinstance(o, Infeasible) else list(o.values().values()) for o in outcomes]
        )
        tasks.append(
            EarlierTask(
                name=(f"{speed:g}",),
                rows=tuple(tuple(space.complete(config).values()) for config in configs),
                ran=np.isfinite(values[:, 0]),
                objective=values[:, 0] * speed,
                constraints=values[:, 1:] / speed,
            )
        )
    return tasks


def ours(candidates: Candidates, count: int, earlier: list[EarlierTask] | None = None) -> Contender:
    """Our strategy, from scratch or from earlier tasks, whose fit is in the call that does not count."""
    sampler: CandidateSampler = BayesianSampler(candidates, OBJECTIVES, SLOS)
    if earlier is not None:
        sampler = MetaSampler(candidates, OBJECTIVES, SLOS, earlier=earlier)
    study = told(candidates, count, seed=1)
    study.sampler = sampler

    def learn(trial: optuna.Trial) -> None:
        outcome = served(candidates.space.config(trial.params))
        trial.set_user_attr(OUTCOME, outcome_to_json(outcome))
        if isinstance(outcome, Infeasible):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, outcome.metrics["throughput"].value)

    return Contender(lambda: study.ask(distributions(candidates.space)), learn)


def optuna_gp(candidates: Candidates, count: int) -> Contender:
    """Optuna's Gaussian-process sampler, told the same trials, failures included; reading them does not count."""
    study = told(candidates, count, seed=1)
    sampler = BayesianSampler(candidates, OBJECTIVES, SLOS)
    histories = [sampler.history(study)]

    def suggest() -> Rows:
        inner = optuna.samplers.GPSampler(seed=0, n_startup_trials=1)
        foreign = ForeignSampler(candidates, OBJECTIVES, SLOS, inner=inner)
        open_positions = np.ones(len(candidates), dtype=bool)
        open_positions[candidates.positions(histories[-1].tried_rows)] = False
        return foreign.choose(histories[-1], open_positions, 0)

    def learn(row: Rows) -> None:
        study.add_trial(told_trial(candidates.space, config_of(candidates.space, row)))
        histories.append(sampler.history(study))

    return Contender(suggest, learn)


def botorch_mixed(candidates: Candidates, study: optuna.Study) -> Contender:
    """BoTorch: a mixed GP each for objective and bound, constrained log EI, mixed alternating optimiser."""
    space = candidates.space
    history: History = BayesianSampler(candidates, OBJECTIVES, SLOS).history(study)
    domains = {
        n: coordinates(p).tolist() if p.scale is not Scale.CATEGORICAL else [float(k) for k in range(len(p.values))]
        for n, p in enumerate(space.parameters)
    }
    ordered = {n: d for n, d in domains.items() if space.parameters[n].scale is not Scale.CATEGORICAL}
    unordered = {n: d for n, d in domains.items() if n not in ordered}
    filled = levels(space, history.rows)
    inputs = torch.tensor([[domains[n][level] for n, level in enumerate(row)] for row in filled.tolist()]).double()
    targets = torch.from_numpy(np.log(history.values))
    scale = targets.std(dim=0)
    holds = history.values[:, 1] <= SLOS[0].bound
    bounds = torch.tensor([[min(d) for d in domains.values()], [max(d) for d in domains.values()]]).double()

    def suggest() -> object:
        standard = (targets - targets.mean(dim=0)) / scale
        models = [MixedSingleTaskGP(inputs, standard[:, [n]], list(unordered)) for n in range(2)]
        model = ModelListGP(*models)
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        limit = float((math.log(SLOS[0].bound) - targets[:, 1].mean()) / scale[1])
        best = float(standard[holds, 0].max())
        acquisition = LogConstrainedExpectedImprovement(model, best, 0, {1: (None, limit)})
        return optimize_acqf_mixed_alternating(acquisition, bounds, ordered, unordered)

    return Contender(suggest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slow-repeats", type=int, default=2, help=f"of {SLOW}")
    parser.add_argument("--threads", type=int, default=2, help="threads that the others may use")
    parser.add_argument("--no-rivals", action="store_true", help="time our strategy alone")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    print(
        f"{'candidates':>10} {'trials':>6}  {'strategy':<28} {'median s':>8} {'fastest':>8} {'slowest':>8} {'times':>6}"
    )
    for knobs, counts, rivals in (((), (30, 50), True), ((3, 3, 4), (50,), False)):
        started = time.perf_counter()
        candidates = Candidates.of(server_space(knobs))
        enumerated_s = time.perf_counter() - started
        for count in counts:
            contenders = {
                "serving-tuner": ours(candidates, count),
                "serving-tuner, earlier tasks": ours(candidates, count, earlier_tasks(candidates)),
            }
            if rivals and not arguments.no_rivals:
                contenders["Optuna GPSampler"] = optuna_gp(candidates, count)
                contenders[SLOW] = botorch_mixed(candidates, told(candidates, count, seed=1))
            found = timed(contenders, {SLOW: arguments.slow_repeats}, arguments.repeats)
            ours_s = statistics.median(found["serving-tuner"])
            for name, seconds in found.items():
                if not seconds:
                    continue
                print(
                    f"{len(candidates):>10,} {count:>6}  {name:<28} {statistics.median(seconds):>8.3f} "
                    f"{min(seconds):>8.3f} {max(seconds):>8.3f} {statistics.median(seconds) / ours_s:>6.1f}",
                    flush=True,
                )
        print(f"{len(candidates):>10,} {'':>6}  {'(enumeration, once a study)':<28} {enumerated_s:>8.3f}")


def timed(contenders: dict[str, Contender], repeats: dict[str, int], otherwise: int) -> dict[str, list[float]]:
    """Seconds per call and contender, taking turns, after one call each that does not count."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(max(otherwise, *repeats.values()) + 1):
        for name, contender in contenders.items():
            if turn > repeats.get(name, otherwise):
                continue
            started = time.perf_counter()
            asked = contender.suggest()
            if turn:
                found[name].append(time.perf_counter() - started)
            contender.learn(asked)
    return found


if __name__ == "__main__":
    main()

"""Spaces and problems for the tests of strategies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import optuna
from hypothesis import strategies as st

from tuner.early_end import EarlyEnd, Limit, OneSided
from tuner.metric import Direction, MetricRef
from tuner.objective import Objective
from tuner.parameter import Condition, Config, Parameter, Scale, powers_of_two
from tuner.slo import Slo, excesses
from tuner.space import Rule, Space
from tuner.strategies.history import KIND, OUTCOME, Kind, distributions, outcome_to_json
from tuner.strategies.listed_problem import Bound, ListedParameter, ListedProblem
from tuner.trial import Estimate, Infeasible, Measurement, Outcome, Reason

optuna.logging.set_verbosity(optuna.logging.WARNING)

THROUGHPUT = Objective(MetricRef.parse("throughput"))
COST = Objective(MetricRef.parse("cost_per_hour"))
LATENCY = MetricRef.parse("p99(latency)")
Truth = Callable[[Config], Outcome]


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Small spaces with all kinds of parameters, conditions that chain, and rules that may leave nothing."""
    parameters = [Parameter(name="device", values=("small", "large")[: draw(st.integers(1, 2))], default="small")]
    for number in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(list(Scale)))
        count = draw(st.integers(1, 4))
        values = {
            Scale.CATEGORICAL: ("a", True, 3, "b")[:count],
            Scale.LINEAR: tuple(range(count)),
            Scale.LOG: (0, 1, 4, 16)[:count] if draw(st.booleans()) else (0.5, 1.0, 2.0, 4.0)[:count],
        }[kind]
        other = draw(st.sampled_from(parameters))
        conditions = (
            (Condition(parameter=other.name, values=tuple(draw(st.sets(st.sampled_from(other.values), min_size=1)))),)
            if draw(st.booleans())
            else ()
        )
        default = draw(st.sampled_from(values))
        parameters.append(
            Parameter(name=f"p{number}", values=values, default=default, scale=kind, active_when=conditions)
        )
    names = [parameter.name for parameter in parameters]
    rules = []
    for number in range(draw(st.integers(0, 3))):
        over = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)))
        salt, share = draw(st.integers(0, 99)), draw(st.sampled_from([2, 3, 5]))
        rules.append(Rule(over=over, holds=_arbitrary(salt, share), says=f"rule {number}"))
    return Space(parameters=tuple(parameters), rules=tuple(rules))


def _arbitrary(salt: int, share: int) -> Callable[..., bool]:
    """A rule without rhyme or reason, but always the same."""

    def holds(**values: object) -> bool:
        return sum(map(ord, f"{salt}{sorted(values.items())}")) % share != 0

    return holds


def server_space(devices: Sequence[str] = ("small", "large")) -> Space:
    """A batching server: 2,280 configurations of which a rule allows 1,770."""
    return Space(
        parameters=(
            Parameter(name="device", values=tuple(devices), default=devices[0]),
            Parameter(name="max_batch_size", values=powers_of_two(1, 64), default=8, scale=Scale.LOG),
            Parameter(name="batching", values=(False, True), default=False),
            Parameter(
                name="queue_delay_us",
                values=(0, 100, 500, 1000, 5000),
                default=0,
                scale=Scale.LOG,
                active_when=(Condition(parameter="batching", values=(True,)),),
            ),
            Parameter(name="instances", values=(1, 2, 3, 4, 6, 8), default=1, scale=Scale.LINEAR),
            Parameter(name="threads", values=(1, 2, 4, 8), default=1, scale=Scale.LOG),
        ),
        rules=(
            Rule(
                over=("instances", "threads"),
                holds=lambda instances, threads: instances * threads <= 16,
                says="instances times threads must be at most 16",
            ),
        ),
    )


def served(config: Config, memory: int = 1200) -> Outcome:
    """What that server does: batching and cores multiply, memory runs out, large batches are late."""
    batch = int(config["max_batch_size"]) if config["batching"] else 1
    instances, threads = int(config["instances"]), int(config["threads"])
    cores = 4 if config.device == "small" else 8
    if batch * instances * 12 > memory * (1 + (config.device == "large")):
        return Infeasible(reason=Reason.OUT_OF_MEMORY, message="killed")
    delay_s = float(config.get("queue_delay_us") or 0) * 1e-6
    busy = min(instances * threads, cores) ** 0.8 / (1 + max(0, instances * threads - cores) / cores)
    throughput = 60 * batch / (batch + 4) * busy * (1 + 0.1 * min(delay_s * 1000, 1)) * threads**-0.05
    latency = 0.006 * (1 + batch / 16) * (1 + instances / 6) + 5 * delay_s
    price = 1.0 if config.device == "small" else 1.5
    return measured({"throughput": throughput, "p99(latency)": latency, "cost_per_hour": price})


def measured(values: dict[str, float], std_error: float = 0.0) -> Measurement:
    """A measurement of exact values."""
    return Measurement(
        metrics={
            name: Estimate(value=value, low=value, high=value, std_error=std_error * value)
            for name, value in values.items()
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something to optimise whose best value is known by enumeration."""

    space: Space
    truth: Truth
    objectives: tuple[Objective, ...] = (THROUGHPUT,)
    slos: tuple[Slo, ...] = (Slo.parse("p99(latency) <= 30 ms"),)
    noise: float = 0.0
    ends_early: bool = False

    def value(self, config: Config) -> float:
        """Gain of the first objective, or -inf where a bound or the server fails."""
        outcome = self.truth(config)
        if isinstance(outcome, Infeasible) or any(v > 0 for v in excesses(self.slos, outcome.values()).values()):
            return -math.inf
        return self.objectives[0].gain(outcome.values()[self.objectives[0].metric])

    def run(self, sampler: optuna.samplers.BaseSampler, trials: int, seed: int = 0) -> optuna.Study:
        """A study of `trials` trials, in memory."""
        study = optuna.create_study(directions=[o.direction.value for o in self.objectives], sampler=sampler)
        self.go_on(study, trials, seed)
        return study

    def go_on(self, study: optuna.Study, trials: int, seed: int = 0) -> None:
        """More trials of a study."""
        generator = np.random.default_rng(seed)
        for _ in range(trials):
            trial = study.ask(distributions(self.space))
            self.tell(study, trial, generator)

    def tell(self, study: optuna.Study, trial: optuna.Trial, generator: np.random.Generator) -> None:
        """Ends a trial with what its configuration does, noise added."""
        outcome = self.truth(self.space.config(trial.params))
        trial.set_user_attr(KIND, Kind.SEARCH.value)
        if isinstance(outcome, Infeasible):
            trial.set_user_attr(OUTCOME, outcome_to_json(outcome))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        noisy = measured(
            {n: e.value * math.exp(self.noise * generator.normal()) for n, e in outcome.metrics.items()}, self.noise
        )
        if self.ends_early:
            noisy = ended_early(noisy, self.slos)
        trial.set_user_attr(OUTCOME, outcome_to_json(noisy))
        for name, excess in excesses(self.slos, noisy.values()).items():
            trial.set_constraint(name, excess)
        study.tell(trial, [noisy.values()[objective.metric] for objective in self.objectives])

    def configs(self, study: optuna.Study) -> list[Config]:
        """What was asked, in order."""
        return [self.space.config(trial.params) for trial in study.get_trials(deepcopy=False)]

    def best_value(self, study: optuna.Study) -> float:
        """True value of the best configuration asked."""
        return max(self.value(config) for config in self.configs(study))


def ended_early(outcome: Measurement, slos: Sequence[Slo]) -> Measurement:
    """A measurement as a load leaves it that ends once a bound is surely missed, by a tenth or more.

    Counting two windows of five of which p99 is bounded tells p97.5 of what has been seen.
    """
    missed = tuple(limit for slo in slos if (limit := Limit(slo=slo, whose="SLO")).passed(outcome.values()[slo.metric]))
    if not missed:
        return outcome
    bounds = {}
    for limit in missed:
        value, bound = outcome.values()[limit.slo.metric], limit.slo.bound
        told = max(0.8 * value, 1.1 * bound) if limit.slo.at_most else min(1.25 * value, bound / 1.1)
        bounds[str(limit.slo.metric)] = OneSided(value=told, side=limit.side)
    return replace(outcome, ended_early=EarlyEnd(after_s=6.0, bounds=bounds, limits=missed))


def server_problem(noise: float = 0.0, ends_early: bool = False) -> Problem:
    """The batching server, throughput under a latency bound."""
    return Problem(space=server_space(), truth=served, noise=noise, ends_early=ends_early)


def listed(count: int) -> ListedProblem:
    """Rows in a row, with a bound of 1 on a latency."""
    return ListedProblem(
        parameters=(ListedParameter("x", Scale.LINEAR),),
        rows=tuple((at,) for at in range(count)),
        direction=Direction.MAXIMIZE,
        bounds=(Bound(name="latency", limit=1.0),),
    )

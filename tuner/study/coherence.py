"""What SLOs, objectives, traffic and prices must not contradict in one another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tuner.device import DeviceType
from tuner.metric import Metric, MetricRef, unreported
from tuner.objective import Objective
from tuner.slo import Slo
from tuner.study.definition import Budget
from tuner.study.faults import Faults, split_message
from tuner.study.sections import TrialSection
from tuner.study.traffic_sections import OpenLoopSection, RateRange, RequestsSection
from tuner.study.yaml_lines import Place

_COSTS = frozenset({Metric.COST_PER_HOUR, Metric.COST_PER_MILLION_REQUESTS, Metric.COST_PER_MILLION_TOKENS})
_ANY_ENGINE = frozenset({Metric.ERROR_RATE, Metric.GOODPUT, Metric.COST_PER_HOUR, Metric.MAX_ARRIVAL_RATE})
_PER_REQUEST = frozenset({Metric.LATENCY, Metric.TTFT, Metric.TPOT})
_ARRIVING = frozenset({Metric.THROUGHPUT, Metric.GOODPUT, Metric.MAX_ARRIVAL_RATE})
_RATE: Place = ("workload", "arrival", "rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A bound or an objective, and where the file states it."""

    place: Place
    what: Slo | Objective

    @property
    def ref(self) -> MetricRef:
        """Its metric."""
        return self.what.metric


def check_reported(placed: Iterable[Placed], reports: frozenset[Metric], engine: str, faults: Faults) -> None:
    """Adds a fault for every bound and objective on a metric that the engine does not report."""
    reported = reports | _ANY_ENGINE
    if Metric.THROUGHPUT in reports:
        reported |= {Metric.COST_PER_MILLION_REQUESTS}
    if Metric.OUTPUT_THROUGHPUT in reports:
        reported |= {Metric.COST_PER_MILLION_TOKENS}
    for entry in placed:
        for _, message in unreported([entry.ref], reported, engine):
            faults.add(entry.place, *split_message(message))


def check_streamed(placed: Iterable[Placed], requests: RequestsSection, faults: Faults) -> None:
    """Adds a fault for every bound and objective on first pieces, where answers arrive in one."""
    if requests.template is not None and not requests.template.streamed:
        for entry in placed:
            if entry.ref.metric is Metric.TTFT:
                problem = f"{entry.ref} needs answers that arrive in pieces."
                faults.add(entry.place, problem, "Write streamed: true under workload.requests.template.")


def check_objectives(objectives: list[Placed], slos: list[Placed], faults: Faults) -> None:
    """Adds faults of objectives that are given twice, or mean nothing without a bound."""
    seen: set[MetricRef] = set()
    for entry in objectives:
        if entry.ref in seen:
            faults.add(entry.place, f"The objective {entry.ref} is given twice.", "Remove one, or name another metric.")
        seen.add(entry.ref)
        bounded = any(slo.ref.metric in _PER_REQUEST for slo in slos) or faults.hides(("slo",))
        if entry.ref.metric is Metric.GOODPUT and not bounded:
            problem = "Without a bound on requests, goodput is throughput."
            faults.add(entry.place, problem, "Write objective: throughput, or slo: [p99(latency) <= 50 ms].")


def check_searched_rate(objectives: list[Placed], slos: list[Placed], arrival: object, faults: Faults) -> None:
    """Adds faults where a range of rates lacks the bounds that decide it, or max_arrival_rate a range.

    Args:
        objectives, slos: what the file asks for.
        arrival: the arrival section.
        faults: where to add.
    """
    if isinstance(arrival, OpenLoopSection) and isinstance(arrival.rate, RateRange):
        if not any(slo.ref.metric is not Metric.MAX_ARRIVAL_RATE for slo in slos) and not faults.hides(("slo",)):
            problem = "A range of arrival rates is searched for the highest one that holds the SLO, but there is none."
            faults.add(_RATE, problem, "Write slo: [p99(latency) <= 50 ms], or a single rate.")
        return
    for entry in (*objectives, *slos):
        if entry.ref.metric is Metric.MAX_ARRIVAL_RATE:
            problem = "max_arrival_rate is searched in a range of rates, and the workload has none."
            faults.add(entry.place, problem, "Write workload.arrival.rate: {low: 5 rps, high: 500 rps}.")


def check_bounds(slos: list[Placed], arrival: object, trial: TrialSection, faults: Faults) -> None:
    """Adds a fault for every bound that no configuration can hold, or that another setting overrules.

    Args:
        slos: the bounds.
        arrival: the arrival section, or `None` where it could not be read.
        trial: how a configuration is measured.
        faults: where to add.
    """
    for entry in slos:
        slo = entry.what
        assert isinstance(slo, Slo)
        told = _contradiction(slo, arrival, trial)
        if told is not None:
            faults.add(entry.place, *told)


def _contradiction(slo: Slo, arrival: object, trial: TrialSection) -> tuple[str, str] | None:
    """The problem and the remedy of a bound that cannot decide anything."""
    metric = slo.metric.metric
    timeout = f"{trial.request_timeout:g} s"
    if metric in (Metric.LATENCY, Metric.TTFT) and slo.bound >= trial.request_timeout:
        problem = f"{slo} allows what trial.request_timeout: {timeout} already counts as a miss."
        return problem, f"Write a bound below {timeout}, or a longer trial.request_timeout."
    if metric is Metric.ERROR_RATE and slo.bound > trial.max_error_rate:
        problem = f"{slo} allows more failures than trial.max_error_rate: {trial.max_error_rate:.2%}."
        return problem, "Lower the bound, or raise trial.max_error_rate."
    if isinstance(arrival, OpenLoopSection) and metric in _ARRIVING:
        highest = arrival.rate.high if isinstance(arrival.rate, RateRange) else arrival.rate
        if slo.bound > highest:
            problem = f"{slo} cannot hold: at most {highest:g} rps arrive."
            return problem, f"Write a bound of {highest:g} rps or less, or a higher workload.arrival.rate."
    return None


def check_prices(devices: list[tuple[Place, DeviceType]], placed: list[Placed], budget: Budget, faults: Faults) -> None:
    """Adds faults of prices that are missing where costs matter, and of devices that cost too much."""
    costs = [entry for entry in placed if entry.ref.metric in _COSTS]
    reason = str(costs[0].ref) if costs else "search.budget.money" if budget.usd is not None else None
    if reason is not None:
        for place, device in devices:
            if device.price_per_hour == 0:
                problem = f"{device.name!r} has no price, which {reason} needs."
                faults.add((*place, "price"), problem, "Write for example price: 0.80 USD/h.")
    for entry in costs:
        slo = entry.what
        if isinstance(slo, Slo) and entry.ref.metric is Metric.COST_PER_HOUR:
            prices = [device.price_per_hour for _, device in devices]
            if prices and all(slo.excess(price) > 0 for price in prices):
                cheapest = entry.ref.format(min(prices))
                faults.add(entry.place, f"{slo} rules out every device.", f"The cheapest one costs {cheapest}.")

"""`tune load`: drives a server that already runs, as a trial would."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status

from tuner.cli.wording import estimate_words, excess_words
from tuner.errors import UsageError
from tuner.launch import Target
from tuner.metric import MetricRef
from tuner.slo import excesses
from tuner.strategies.candidates import Candidates
from tuner.study import adapters
from tuner.study.file import load_study
from tuner.study.space import study_space
from tuner.units import Dimension, format_seconds, parse_quantity
from tuner.workload import ArrivalProcess, ClosedLoop, OpenLoop

if TYPE_CHECKING:
    from tuner.trial import Measurement, Progress, TrialPlan


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "load",
        help="measure a server that already runs",
        description="Drives a running server with the workload of a study file and prints what a trial would record.",
        epilog="example: tune load http://127.0.0.1:8000 --workload study.yaml --rate '50 rps'",
    )
    parser.add_argument("url", help="scheme, host and port of the server")
    parser.add_argument(
        "--workload", type=Path, required=True, metavar="FILE", help="study file: its engine, model, workload and trial"
    )
    parser.add_argument("--rate", metavar="RATE", help="open-loop Poisson arrivals at this rate, instead of the file's")
    parser.add_argument("--clients", type=int, metavar="N", help="closed loop of N clients, instead of the file's")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measures it."""
    study = load_study(arguments.workload)
    engine = adapters.search_space(study.engine.name, study.engine.options)
    candidates = Candidates.of(study_space(study, engine), seed=study.search.seed)
    config = candidates.config(candidates.default_position)
    request = engine.launch(study.task, config, Target.CONTAINER).request
    plan = _with_arrival(study.plan, arguments)
    console = Console(stderr=True)
    with console.status("connecting") as status:
        measurement = adapters.load_driver().drive(arguments.url, request, plan, _show_on(status))
    if arguments.json:
        sys.stdout.write(json.dumps(_as_json(measurement), indent=2) + "\n")
        return 0
    for name, estimate in measurement.metrics.items():
        ref = MetricRef.parse(name)
        sys.stdout.write(f"{name:<24} {estimate_words(ref, estimate)}\n")
    sys.stdout.write(
        f"{measurement.sent} sent, {measurement.completed} completed, {measurement.failed} failed, "
        f"{measurement.timed_out} timed out; generator late by {format_seconds(measurement.lateness_p99_s)} (p99)\n"
    )
    for error in measurement.errors:
        sys.stdout.write(f"error: {error}\n")
    excess = excesses(plan.slos, measurement.values())
    for slo in plan.slos:
        sys.stdout.write(excess_words(slo, excess[str(slo)]) + "\n")
    return 0


def _with_arrival(plan: TrialPlan, arguments: argparse.Namespace) -> TrialPlan:
    if arguments.rate is not None and arguments.clients is not None:
        raise UsageError("--rate and --clients exclude each other. Give one.")
    arrival = plan.workload.arrival
    if arguments.rate is not None:
        arrival = OpenLoop(process=ArrivalProcess.POISSON, rate_rps=parse_quantity(arguments.rate, Dimension.RATE))
    elif arguments.clients is not None:
        arrival = ClosedLoop(clients=arguments.clients)
    return replace(plan, workload=replace(plan.workload, arrival=arrival))


def _show_on(status: Status) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        status.update(f"{progress.phase.value} {format_seconds(progress.elapsed_s)} {progress.note}")

    return watch


def _as_json(measurement: Measurement) -> dict[str, object]:
    return {
        "metrics": {
            name: {"value": e.value, "low": e.low, "high": e.high, "unit": MetricRef.parse(name).metric.dimension.value}
            for name, e in measurement.metrics.items()
        },
        "sent": measurement.sent,
        "completed": measurement.completed,
        "failed": measurement.failed,
        "timed_out": measurement.timed_out,
        "generator_lateness_p99_s": measurement.lateness_p99_s,
        "probes": [{"rate_rps": p.rate_rps, "held": p.held, "excess": p.excess} for p in measurement.probes],
        "errors": list(measurement.errors),
    }

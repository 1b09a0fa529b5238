"""`tune simulate STUDY --set NAME=VALUE`: one configuration of a study in detail."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tuner.cli.wording import config_words, excess_words, metrics_json, parameters_json
from tuner.metric import MetricRef
from tuner.parameter import Config
from tuner.slo import excesses
from tuner.study.definition import Study
from tuner.study.file import load_study
from tuner.study.simulated import configured, simulate
from tuner.trial import Measurement


def show_simulation(path: Path, settings: Mapping[str, str], as_json: bool) -> int:
    """Prints what one configuration of the study in a file would show."""
    study = load_study(path, serves=False)
    config = configured(study, settings)
    measured = simulate(study, config)
    if as_json:
        json.dump(_json(study, config, measured), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return 0
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
    console.print(
        f"{study.name}: simulated, not measured: {measured.sent:,} requests of the study's own traffic, "
        f"{measured.completed:,} answered",
        highlight=False,
        markup=False,
    )
    console.print(config_words(config), highlight=False, markup=False)
    table = Table()
    table.add_column("metric")
    table.add_column("simulated", justify="right")
    for name, estimate in measured.metrics.items():
        table.add_row(name, MetricRef.parse(name).format(estimate.value))
    console.print(table)
    for bound, excess in excesses(study.slos, measured.values()).items():
        slo = next(each for each in study.slos if str(each) == bound)
        console.print(excess_words(slo, excess), highlight=False, markup=False)
    return 0


def _json(study: Study, config: Config, measured: Measurement) -> dict[str, object]:
    found = excesses(study.slos, measured.values())
    return {
        "study": study.name,
        "origin": "simulated",
        "parameters": parameters_json(config),
        "sent": measured.sent,
        "completed": measured.completed,
        "holds": all(excess <= 0 for excess in found.values()),
        "excess": found,
        "metrics": {
            name: {"value": entry["value"], "unit": entry["unit"], "origin": entry["origin"]}  # type: ignore[index]
            for name, entry in metrics_json(measured.metrics, "simulated").items()
        },
    }

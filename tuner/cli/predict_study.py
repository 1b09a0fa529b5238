"""`tune predict STUDY`: the best configurations of a study without running anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tuner.cli.wording import config_words, estimate_words, finite, metrics_json, parameters_json
from tuner.study.file import load_study
from tuner.study.forecast import Exclusion, Prospect
from tuner.study.predictions import Predictions, predict

_REASONS: Final = 8
"""Reasons that are printed for people; JSON has them all."""


def show_study(path: Path, count: int, as_json: bool) -> int:
    """Prints what is predicted of the study in a file."""
    found = predict(load_study(path, serves=False), count)
    if as_json:
        json.dump(predictions_json(found), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return 0
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
    console.print(_heading(found), highlight=False, markup=False)
    for device, prospects in found.best.items():
        if device in found.silent:
            console.print(f"{device}: nothing predicted. {found.silent[device]}", highlight=False, markup=False)
        elif not prospects:
            console.print(f"{device}: no configuration can run", highlight=False, markup=False)
        else:
            console.print(_table(found, device, prospects))
    for line in _reasons(found):
        console.print(line, highlight=False, markup=False)
    return 0


def predictions_json(found: Predictions) -> dict[str, object]:
    """The same for machines: base units, all numbers finite or null."""
    return {
        "study": found.study.name,
        "origin": "predicted",
        "configurations": {"valid": found.valid, "predicted": found.looked_at},
        "calibrated_on": found.calibrated_on,
        "devices": {
            device: {
                "source": found.origins.get(device),
                "nothing_predicted": found.silent.get(device),
                "best": [_prospect_json(each) for each in prospects],
            }
            for device, prospects in found.best.items()
        },
        "ruled_out": [
            {
                "reason": each.reason,
                "configurations": each.count,
                "certain": each.surely,
                "example": parameters_json(each.example),
            }
            for each in found.exclusions
        ],
        "invalid": [{"rule": says, "combinations": count} for says, count in found.invalid.items()],
    }


def _prospect_json(prospect: Prospect) -> dict[str, object]:
    return {
        "parameters": parameters_json(prospect.config),
        "holds": prospect.holds,
        "probability": finite(prospect.probability),
        "metrics": metrics_json(prospect.metrics, "predicted"),
    }


def _heading(found: Predictions) -> str:
    of = f"{found.valid:,}" if found.looked_at == found.valid else f"{found.looked_at:,} of {found.valid:,}"
    words = (
        f"{found.study.name}: predicted, not measured, for {of} valid configurations; intervals of 90 %; shown is what "
    )
    words += "differs from the engine's default"
    if found.calibrated_on:
        words += f"; corrected by {found.calibrated_on} measured configurations of this study"
    return words


def _table(found: Predictions, device: str, prospects: tuple[Prospect, ...]) -> Table:
    study = found.study
    refs = list(dict.fromkeys([o.metric for o in study.objectives] + [slo.metric for slo in study.slos]))
    source = found.origins.get(device, "")
    table = Table(title=f"{device} ({source})" if source else device, title_justify="left")
    table.add_column("configuration", overflow="fold")
    for ref in refs:
        table.add_column(f"{ref}, predicted", justify="right")
    if study.slos:
        table.add_column("meets the SLO", justify="right")
    for prospect in prospects:
        cells = [config_words(prospect.config, found.default)]
        for ref in refs:
            estimate = prospect.metrics.get(str(ref))
            cells.append("-" if estimate is None else estimate_words(ref, estimate))
        if study.slos:
            cells.append(f"{'yes' if prospect.holds else 'no'} ({prospect.probability:.0%} likely)")
        table.add_row(*cells)
    return table


def _reasons(found: Predictions) -> list[str]:
    lines = []
    if found.exclusions:
        lines.append(f"Ruled out, of {found.looked_at:,} configurations:")
        lines += [_reason_line(each) for each in found.exclusions[:_REASONS]]
        if len(found.exclusions) > _REASONS:
            lines.append(f"  and {len(found.exclusions) - _REASONS} more reasons (--json lists all)")
    if found.invalid:
        lines.append("Never valid, of all combinations:")
        lines += [f"  {count:>9,}  {says}" for says, count in list(found.invalid.items())[:_REASONS]]
    return lines


def _reason_line(exclusion: Exclusion) -> str:
    return f"  {exclusion.count:>9,}  {'cannot run: ' if exclusion.surely else ''}{exclusion.reason}"

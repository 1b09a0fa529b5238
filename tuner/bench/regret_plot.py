"""Regret curves as SVG, one panel per task file: small, without dependencies, readable in any browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from tuner.bench.score import StrategySummary

_WIDTH, _HEIGHT, _MARGIN = 380, 250, 46
_FLOOR = 1e-3
"""Regrets below 0.1 % are drawn at the bottom."""
_COLOURS = (
    "#0b62a4",
    "#d1495b",
    "#3a7d44",
    "#8f5fbf",
    "#c07a00",
    "#00868b",
    "#7f7f7f",
    "#b5179e",
    "#5c4033",
    "#222222",
)
_LEGEND_WIDTH, _LEGEND_HEIGHT = 110, 20


def regret_plot(summaries: Sequence[StrategySummary]) -> str:
    """An SVG document: mean regret over evaluations, logarithmic."""
    tasks = list(dict.fromkeys(summary.task for summary in summaries))
    strategies = list(dict.fromkeys(summary.strategy for summary in summaries))
    colours = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(strategies)}
    columns = min(3, max(1, len(tasks)))
    rows = math.ceil(len(tasks) / columns)
    names_abreast = (columns * _WIDTH - 20) // _LEGEND_WIDTH
    height = rows * _HEIGHT + 10 + _LEGEND_HEIGHT * math.ceil(len(strategies) / names_abreast)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * _WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{columns * _WIDTH}" height="{height}" fill="white"/>',
    ]
    for at, task in enumerate(tasks):
        left, top = (at % columns) * _WIDTH, (at // columns) * _HEIGHT
        panel = [summary for summary in summaries if summary.task == task]
        parts.append(f'<g transform="translate({left},{top})">' + _panel(task, panel, colours) + "</g>")
    for at, name in enumerate(strategies):
        x = 20 + at % names_abreast * _LEGEND_WIDTH
        y = rows * _HEIGHT + 10 + at // names_abreast * _LEGEND_HEIGHT
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colours[name]}"/>')
        parts.append(f'<text x="{x + 16}" y="{y + 10}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(task: str, summaries: Sequence[StrategySummary], colours: dict[str, str]) -> str:
    steps = max(len(summary.regret) for summary in summaries)
    width, height = _WIDTH - _MARGIN - 14, _HEIGHT - 2 * _MARGIN

    def place(step: int, regret: float) -> str:
        x = _MARGIN + width * (step / max(steps - 1, 1))
        share = math.log(max(regret, _FLOOR) / _FLOOR) / math.log(1.0 / _FLOOR)
        return f"{x:.1f},{_MARGIN + height * (1.0 - share):.1f}"

    parts = [f'<text x="{_MARGIN}" y="{_MARGIN - 14}" font-weight="bold">{escape(task)}</text>']
    for regret in (1.0, 0.1, 0.01, 0.001):
        start, end = place(0, regret), place(steps - 1, regret)
        parts.append(f'<polyline points="{start} {end}" stroke="#dddddd" fill="none"/>')
        y = float(start.split(",")[1])
        parts.append(f'<text x="{_MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{regret * 100:g} %</text>')
    for summary in summaries:
        points = " ".join(place(step, regret) for step, regret in enumerate(summary.regret))
        colour = colours[summary.strategy]
        parts.append(f'<polyline points="{points}" stroke="{colour}" stroke-width="1.8" fill="none"/>')
    below = _MARGIN + height + 16
    parts.append(f'<text x="{_MARGIN}" y="{below}">1</text>')
    parts.append(f'<text x="{_MARGIN + width}" y="{below}" text-anchor="end">{steps} evaluations</text>')
    return "".join(parts)

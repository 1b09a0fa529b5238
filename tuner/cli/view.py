"""Watching a study: a live view on a terminal, plain lines anywhere else."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.cli.wording import config_words, estimate_words, kind_words, number_words, outcome_words
from tuner.parameter import Config
from tuner.strategies.history import Kind
from tuner.study.definition import Study
from tuner.study.event import Event, Notice, StudyOpened, TrialEnded, TrialProgress, TrialStarted
from tuner.study.recommendation import recommended
from tuner.study.record import State, TrialRecord
from tuner.trial import Progress
from tuner.units import format_seconds

_ROWS = 12
_REFRESH_PER_S = 4


class View(Protocol):
    """Somebody who watches a study."""

    def __call__(self, event: Event) -> None:
        """Takes note of an event."""
        ...

    def close(self) -> None:
        """Leaves the screen as it should stay."""
        ...


def make_view(study: Study, default: Config, console: Console) -> View:
    """The live view where `console` is a terminal, plain lines otherwise."""
    return LiveView(study, default, console) if console.is_terminal else PlainView(study, default, console)


class _Course:
    """What the views know of the study's course."""

    def __init__(self, study: Study, default: Config) -> None:
        self.study = study
        self.default = default
        self.records: list[TrialRecord] = []
        self.reaped = 0
        self.space_size = 0
        self.running: TrialStarted | None = None
        self.progress: Progress | None = None
        self.progress_at = 0.0

    def note(self, event: Event) -> None:
        if isinstance(event, StudyOpened):
            self.records = list(event.records)
            self.reaped = event.reaped
            self.space_size = event.space_size
        elif isinstance(event, TrialStarted):
            self.running, self.progress = event, None
        elif isinstance(event, TrialProgress):
            self.progress, self.progress_at = event.progress, time.monotonic()
        elif isinstance(event, TrialEnded):
            self.running = None
            self.records.append(event.record)

    @property
    def searched(self) -> int:
        """Search trials that count against the budget."""
        return sum(r.kind is Kind.SEARCH and r.state is State.DONE for r in self.records)

    def time_left_s(self) -> float | None:
        """Expected rest of the study, from the mean trial so far; `None` before the first one."""
        done = [r.phases.total_s for r in self.records if r.state is State.DONE]
        budget = self.study.search.budget
        if not done:
            return None
        mean_s = math.fsum(done) / len(done)
        limits = []
        if budget.trials is not None:
            limits.append((budget.trials - self.searched) * mean_s)
        if budget.seconds is not None:
            limits.append(budget.seconds - math.fsum(done))
        if not limits:
            return None
        confirmed = sum(r.kind is Kind.CONFIRM for r in self.records)
        repeats = max(0, 2 * self.study.search.confirmations - confirmed)
        return max(0.0, min(limits)) + repeats * mean_s

    def left_words(self) -> str:
        left = self.time_left_s()
        return f"about {format_seconds(left)} left" if left else ""

    def incumbent_words(self) -> str:
        objective = self.study.objectives[0]
        best = recommended(self.records, self.study.slos, objective)
        if best is None:
            return "none yet meets the SLO" if self.records else "none yet"
        estimate = best.estimate(objective.metric)
        number = "" if estimate is None else f"{objective} {estimate_words(objective.metric, estimate)}: "
        return f"{number}{config_words(best.config, self.default)}"


class PlainView:
    """One line per event, for logs and pipes."""

    def __init__(self, study: Study, default: Config, console: Console) -> None:
        self._course = _Course(study, default)
        self._console = console

    def __call__(self, event: Event) -> None:
        """Prints a line for what begins and ends."""
        course = self._course
        course.note(event)
        if isinstance(event, Notice):
            self._print(event.text)
        elif isinstance(event, StudyOpened):
            self._print(opening_words(course.study, event.records, event.reaped, event.space_size))
        elif isinstance(event, TrialStarted):
            self._print(f"{kind_words(event.kind)} {event.number}: {config_words(event.config, course.default)}")
        elif isinstance(event, TrialEnded):
            record = event.record
            words = outcome_words(record, course.study)
            took = format_seconds(record.phases.total_s)
            self._print(f"  {words} ({took}); {self._count()}")

    def close(self) -> None:
        """Nothing to leave."""

    def _count(self) -> str:
        trials, left = self._course.study.search.budget.trials, self._course.left_words()
        done = f"{self._course.searched}/{trials} trials" if trials else f"{self._course.searched} trials"
        return f"{done}, {left}" if left else done

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """A screen that follows the study."""

    def __init__(self, study: Study, default: Config, console: Console) -> None:
        self._course = _Course(study, default)
        self._console = console
        self._live = Live(self, console=console, refresh_per_second=_REFRESH_PER_S, transient=True)
        self._live.start()

    def __call__(self, event: Event) -> None:
        """Takes note; the screen is drawn a few times a second."""
        self._course.note(event)
        if isinstance(event, StudyOpened):
            words = opening_words(self._course.study, event.records, event.reaped, event.space_size)
            self._live.console.print(words, markup=False, highlight=False)
        elif isinstance(event, Notice):
            self._live.console.print(event.text, markup=False, highlight=False)

    def close(self) -> None:
        """Leaves the table of trials on the screen."""
        self._live.stop()
        if self._course.records:
            self._console.print(trial_table(self._course.study, self._course.records, self._course.default))

    def __rich__(self) -> RenderableType:
        course = self._course
        parts: list[RenderableType] = [trial_table(course.study, course.records[-_ROWS:], course.default)]
        if course.running is not None:
            parts.append(self._running(course.running))
        budget = course.study.search.budget.trials
        if budget is not None:
            overall = Table.grid(padding=(0, 1), expand=True)
            overall.add_column(ratio=1)
            overall.add_column(justify="right")
            overall.add_row(
                ProgressBar(total=budget, completed=course.searched),
                f"{course.searched}/{budget} trials {course.left_words()}",
            )
            parts.append(overall)
        parts.append(Text(f"incumbent  {course.incumbent_words()}"))
        return Panel(Group(*parts), title=f"{course.study.name} · {course.study.engine.name}", title_align="left")

    def _running(self, started: TrialStarted) -> RenderableType:
        head = Text(
            f"{kind_words(started.kind)} {started.number}  {config_words(started.config, self._course.default)}"
        )
        progress = self._course.progress
        if progress is None:
            return head
        elapsed = progress.elapsed_s + (time.monotonic() - self._course.progress_at)
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(width=12)
        line.add_column(ratio=1)
        line.add_column(justify="right")
        expected = progress.expected_s
        bar = ProgressBar(total=expected or 1.0, completed=min(elapsed, expected or 0.0), pulse=expected is None)
        line.add_row(progress.phase.value, bar, f"{format_seconds(elapsed)} {progress.note}".strip())
        return Group(head, line)


def opening_words(study: Study, records: Sequence[TrialRecord], reaped: int, space_size: int) -> str:
    """What a run begins with, in a line or two."""
    slo = "; ".join(str(slo) for slo in study.slos) or "none"
    lines = [
        f"{study.name}: {study.engine.name} on {study.runner.name}, {space_size:,} valid configurations, "
        f"objective {' and '.join(map(str, study.objectives))}, SLO {slo}"
    ]
    done = sum(r.state is State.DONE for r in records)
    if records:
        lines.append(f"continuing with {done} finished {'trial' if done == 1 else 'trials'}")
    if reaped:
        lines.append(f"removed {reaped} left-over {'server' if reaped == 1 else 'servers'} of an interrupted run")
    return "\n".join(lines)


def trial_table(study: Study, records: Sequence[TrialRecord], default: Config) -> Table:
    """Trials as a table: configuration beside its key numbers."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("#", justify="right", width=4)
    table.add_column("configuration", ratio=3, overflow="fold")
    for objective in study.objectives:
        table.add_column(str(objective), justify="right")
    for slo in study.slos:
        table.add_column(str(slo), justify="right")
    table.add_column("", ratio=1, overflow="ellipsis", no_wrap=True)
    for record in records:
        cells = [str(record.number), config_words(record.config, default)]
        for ref in (*(o.metric for o in study.objectives), *(slo.metric for slo in study.slos)):
            cells.append(number_words(record, ref))
        cells.append(_verdict(record, study))
        table.add_row(*cells, style="" if record.holds(study.slos) else "dim")
    return table


def _verdict(record: TrialRecord, study: Study) -> str:
    if record.failure is not None:
        return record.failure.reason.value
    if record.ended_early is not None:
        return "ended early"
    if record.measurement is None:
        return record.state.value
    confirmed = "again: " if record.kind is Kind.CONFIRM else ""
    return confirmed + ("ok" if record.holds(study.slos) else "misses the SLO")

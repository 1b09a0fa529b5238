"""`tune run`: carries a study out, or goes on with it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import UsageError

if TYPE_CHECKING:
    from tuner.study.definition import Study

NOTHING_MEETS_THE_SLO = 3


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "run",
        help="tune a study; run again to go on after an interruption",
        description="Starts real servers, one configuration after another, and finds the best that meets the SLO.",
        epilog="example: tune run study.yaml --trials 15 --json > result.json",
    )
    parser.add_argument("study", type=Path, help="study file")
    parser.add_argument("--trials", type=int, metavar="N", help="budget in trials, instead of the file's")
    parser.add_argument(
        "--sampler", metavar="NAME", help="'auto' (ours), 'meta', or any Optuna sampler, such as TPESampler"
    )
    parser.add_argument("--priors", metavar="WHICH", help="earlier tasks: auto, none, or a file or folder of them")
    parser.add_argument("--runner", metavar="NAME", help="runner, instead of the file's")
    parser.add_argument("--no-predictions", action="store_true", help="do without the performance model")
    parser.add_argument("--no-early-end", action="store_true", help="load every trial to its end")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--plain", action="store_true", help="plain lines even on a terminal")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carries it out."""
    # Imported here, as they take most of a second that neither help nor a misspelt option needs.
    import psutil
    from rich.console import Console

    from tuner.cli.summary import summary_json, summary_words
    from tuner.cli.view import make_view
    from tuner.study.file import load_study
    from tuner.study.loop import Tuner

    study = _overridden(load_study(arguments.study), arguments)
    console = Console(stderr=True, force_terminal=False if arguments.plain else None)
    tuner = Tuner(study, started=psutil.Process().create_time())
    if study.runner.name != tuner.study.runner.name:
        words = _resolved_words(tuner.study.runner.name, tuner.runner_as_begun)
        console.print(words, markup=False, highlight=False)
    view = make_view(tuner.study, tuner.default_config, console)
    tuner.watch = view
    try:
        result = tuner.run()
    finally:
        view.close()
    if arguments.json:
        json.dump(summary_json(result), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(summary_words(result) + "\n")
    if result.best is None:
        return NOTHING_MEETS_THE_SLO
    for form, place in study.exports.items():
        for path in result.export(form, place):
            console.print(f"wrote {path}", markup=False, highlight=False)
    return 0


def _overridden(study: Study, arguments: argparse.Namespace) -> Study:
    search = study.search
    if arguments.trials is not None:
        if arguments.trials < 1:
            raise UsageError(f"--trials is {arguments.trials}. Write 1 or more.")
        search = replace(search, budget=replace(search.budget, trials=arguments.trials))
    if arguments.no_predictions:
        search = replace(search, predictions=False)
    if arguments.no_early_end:
        search = replace(search, early_end=False)
    if arguments.sampler is not None:
        search = replace(search, sampler=arguments.sampler)
    if arguments.priors is not None:
        search = replace(search, priors=_priors(arguments.priors))
    runner = study.runner if arguments.runner is None else replace(study.runner, name=arguments.runner, options={})
    return replace(study, search=search, runner=runner)


def _priors(written: str) -> str:
    from tuner.priors.library import read_priors
    from tuner.study.definition import AUTO, NONE

    if written in (AUTO, NONE):
        return written
    read_priors(Path(written))
    return str(Path(written).absolute())


def _resolved_words(runner: str, as_begun: bool) -> str:
    how, why = {
        "docker": ("in containers", "a Docker daemon answers"),
        "process": ("as local processes", "no Docker daemon answers"),
    }.get(runner, (f"by the runner {runner}", ""))
    return f"trials run {how}, as this study's did" if as_begun else f"trials run {how}: {why}"

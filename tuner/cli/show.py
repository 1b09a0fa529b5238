"""`tune show`: what a study has found so far."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from tuner.cli.summary import summary_json, summary_words
from tuner.cli.view import trial_table
from tuner.study.api import load_result
from tuner.study.file import load_study
from tuner.study.result import Result


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "show",
        help="show the trials of a study and the best so far",
        description="Shows the trials of a study and the best configuration so far; runs nothing.",
        epilog="example: tune show study.yaml --json",
    )
    add_study_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which study is meant."""
    parser.add_argument("study", help="study file, or with --storage a study's name")
    parser.add_argument("--storage", metavar="URL", help="storage that holds the study named")


def chosen_result(arguments: argparse.Namespace) -> Result:
    """The result of the study that the arguments name."""
    if arguments.storage is not None:
        return load_result(arguments.study, arguments.storage)
    return load_result(load_study(Path(arguments.study)))


def run(arguments: argparse.Namespace) -> int:
    """Shows it."""
    result = chosen_result(arguments)
    if arguments.json:
        json.dump(summary_json(result), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return 0
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
    console.print(trial_table(result.study, result.records, result.default_config))
    sys.stdout.write(summary_words(result) + "\n")
    return 0

"""`tune export`: deployment files of a configuration that was measured."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tuner.cli.show import add_study_arguments, chosen_result
from tuner.errors import UsageError
from tuner.export.bundle import formats
from tuner.parameter import Config
from tuner.study.result import Result


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "export",
        help="write the best configuration for deployment",
        description="Writes the best configuration (or that of a trial) as files that start as they are.",
        epilog="example: tune export study.yaml --format compose --output deploy/",
    )
    add_study_arguments(parser)
    parser.add_argument(
        "--format",
        default="json",
        metavar="FORMAT",
        help="json, yaml, env, compose, or the engine's own: triton, vllm-args, script (default: json)",
    )
    parser.add_argument("--output", type=Path, metavar="PATH", help="file or folder; a single file else goes to stdout")
    parser.add_argument("--trial", type=int, metavar="N", help="the configuration of this trial instead of the best")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the files."""
    result = chosen_result(arguments)
    config = None if arguments.trial is None else _config_of(result, arguments.trial)
    if arguments.output is None:
        files = result.files(arguments.format, config)
        if len(files) != 1:
            known = ", ".join(formats(result.engine))
            raise UsageError(
                f"The format {arguments.format!r} has {len(files)} files: {', '.join(files)}. "
                f"Give a folder with --output. Formats: {known}."
            )
        sys.stdout.write(next(iter(files.values())))
        return 0
    for path in result.export(arguments.format, arguments.output, config):
        sys.stdout.write(f"{path}\n")
    return 0


def _config_of(result: Result, number: int) -> Config:
    for record in result.records:
        if record.number == number:
            return record.config
    raise UsageError(f"The study has no trial {number}; it has {len(result.records)}. See `tune show`.")

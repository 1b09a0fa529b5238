"""`tune init`, `tune check`, `tune schema`: study files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tuner.cli.wording import config_words
from tuner.errors import UsageError
from tuner.strategies.candidates import Candidates
from tuner.study import adapters
from tuner.study.earlier import chosen, standing_words
from tuner.study.file import load_study
from tuner.study.schema import json_schema
from tuner.study.space import study_space
from tuner.study.template import template


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands."""
    init = commands.add_parser(
        "init",
        help="print a commented study file",
        description="Prints a commented study file for an engine.",
        epilog="example: tune init --engine vllm --output study.yaml",
    )
    init.add_argument("--engine", default="triton", metavar="NAME", help="engine (default: triton)")
    init.add_argument("--output", type=Path, metavar="FILE", help="write there; an existing file is not touched")
    init.set_defaults(run=run_init)
    check = commands.add_parser(
        "check",
        help="report every fault of a study file",
        description="Reports every fault of a study file, each with its line; starts nothing.",
        epilog="example: tune check study.yaml",
    )
    check.add_argument("study", type=Path, help="study file")
    check.set_defaults(run=run_check)
    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of study files",
        description="Prints the JSON Schema of study files; editors complete from it.",
        epilog="example: tune schema > study.schema.json",
    )
    schema.set_defaults(run=run_schema)


def run_init(arguments: argparse.Namespace) -> int:
    """Prints or writes a study file."""
    text = template(arguments.engine)
    if arguments.output is None:
        sys.stdout.write(text)
        return 0
    try:
        with arguments.output.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{arguments.output} is already there. Remove it or choose another name.") from None
    except OSError as error:
        raise UsageError(f"Cannot write {arguments.output}: {error.strerror}. Choose another place.") from error
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """Checks a study file, its space included; the faults are raised."""
    study = load_study(arguments.study)
    space = study_space(study, adapters.search_space(study.engine.name, study.engine.options))
    candidates = Candidates.of(space, seed=study.search.seed)
    default = candidates.config(candidates.default_position)
    sys.stdout.write(
        f"{arguments.study}: no faults; {len(candidates):,} valid configurations "
        f"of {len(space.parameters)} parameters\n"
        f"tried first: {config_words(default)}\n"
    )
    earlier = chosen(study, space)
    lines = [*earlier.notes, *([standing_words(earlier.priors)] if earlier.priors else [])]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def run_schema(arguments: argparse.Namespace) -> int:
    """Prints the JSON Schema."""
    json.dump(json_schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0

"""What the commands of the performance model share: models and tables found by entry point."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from tuner.errors import TunerError, UsageError
from tuner.hardware import Hardware
from tuner.model_graph import ModelGraph
from tuner.performance.host_table import profile_folder
from tuner.performance.operator_table import OperatorTable
from tuner.performance.prediction import ModelSource
from tuner.performance.table_choice import tables_for
from tuner.step import NumberFormat
from tuner.study.adapters import load
from tuner.study.read_model import HUGGING_FACE, read_with


def installed(group: str, name: str) -> Callable[..., object]:
    """What an entry point names; raises AdapterError or UnknownNameError."""
    return cast(Callable[..., object], load(group, name))


def device_catalogue(own: Path | None) -> Mapping[str, Hardware]:
    """Accelerators by name: the shipped ones, widened by the user's file `own`.

    Raises:
        UsageError, StudyFileError: the file cannot be read, or its entries are wrong.
    """
    read = cast(Callable[[Path | None], Mapping[str, Hardware]], installed("tuner.device_catalogues", "shipped"))
    return read(own)


def operator_tables(catalogue: Mapping[str, Hardware], profiles: Path | None = None) -> dict[str, OperatorTable]:
    """A table for every device: the shipped ones and those profiled here, in `profiles` or where they are kept."""
    folder = cast(Callable[[], Path], installed("tuner.operator_tables", "shipped"))()
    return tables_for(catalogue, folder, profiles or profile_folder())


def model_source(folder: Path) -> ModelSource:
    """Reads models by name from `ORG--NAME/config.json` in `folder`."""

    def read(name: str, weights: NumberFormat | None) -> ModelGraph:
        return read_with(HUGGING_FACE, folder / name.replace("/", "--"), weights)

    return read


def check_place(path: Path) -> None:
    """Whether a result can be written to `path`, before there is one.

    Raises:
        UsageError: its folder is missing, or it is a folder.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Write the name of a file in --out.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}. Create it, or give another --out.")


def refuse_beside_a_study(arguments: argparse.Namespace, names: Sequence[str], option: str) -> None:
    """What a study file says by itself, or has no use for, is not given beside it.

    Raises:
        UsageError: one of the options `names` was given.
    """
    given = [f"--{name}" for name in names if getattr(arguments, name) is not None]
    if given:
        raise UsageError(f"{', '.join(given)} belongs to {option}, not to a study. Leave it out.")


def alone(add: Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None]) -> int:
    """Runs one command as a program of its own: `python -m tuner.cli.predict predict ...`."""
    parser = argparse.ArgumentParser(prog="tune")
    add(parser.add_subparsers(required=True))
    arguments = parser.parse_args()
    try:
        return int(arguments.run(arguments))
    except TunerError as error:
        print(f"tune: {error}", file=sys.stderr)
        return error.exit_code

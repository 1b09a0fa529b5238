"""Study files: a YAML text becomes a `Study`, or all of its faults at once, each with its line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tuner.errors import Fault, StudyFileError
from tuner.study.assembly import Assembly
from tuner.study.definition import Study
from tuner.study.faults import Faults
from tuner.study.structure import read_sections
from tuner.study.yaml_lines import MAX_BYTES, read


def load_study(path: Path | str, *, environment: Mapping[str, str] | None = None, serves: bool = True) -> Study:
    """The study in a file.

    Args:
        path: the file; the paths in it are relative to its folder.
        environment: variables that the file may name; the process's own where absent.
        serves: false where nothing will be started: a model's description (`config.json`) is then enough.

    Raises:
        StudyFileError: whatever is wrong, all of it; nothing has been started.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = f"The file cannot be read: {reason}."
        fault = Fault(where="", problem=problem, remedy="Name a study file; `tune init` writes one.")
        raise StudyFileError(str(path), [fault]) from error
    return parse_study(data, path, environment=environment, serves=serves)


def parse_study(
    data: bytes, path: Path | str, *, environment: Mapping[str, str] | None = None, serves: bool = True
) -> Study:
    """The study in a text.

    Args:
        data: the text, UTF-8.
        path: of the file it comes from, or might have come from.
        environment, serves: as in `load_study`.

    Raises:
        StudyFileError: as in `load_study`.
    """
    source = Path(os.path.abspath(path))
    document = read(data)
    faults = Faults(document)
    if document.value is None and document.faults:
        raise StudyFileError(str(path), faults.found)
    sections = read_sections(document.value, faults)
    study = Assembly(sections, source, os.environ if environment is None else environment, faults, serves).study()
    if study is None:
        raise StudyFileError(str(path), faults.found)
    return study


def check(path: Path | str) -> tuple[Fault, ...]:
    """All faults of a study file, in the order of its lines; empty when there are none."""
    try:
        load_study(path)
    except StudyFileError as error:
        return error.faults
    return ()

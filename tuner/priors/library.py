"""The local library of earlier tasks, and the starter library that ships."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tuner.errors import StorageError, UnknownNameError, UsageError
from tuner.priors.prior_task import PriorTask, read_prior
from tuner.whole_file import written_whole


def default_folder() -> Path:
    """`$TUNER_PRIORS`, or the user's data folder."""
    chosen = os.environ.get("TUNER_PRIORS")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "serving-tuner" / "priors"


def read_priors(path: Path) -> tuple[PriorTask, ...]:
    """The priors in a file, or in all `.json` and `.json.gz` files of a folder, in order of name.

    Raises:
        UsageError: there is nothing at `path`, a file is no prior, or two have one name.
    """
    if not path.is_dir():
        return (read_prior(path),)
    tasks = [read_prior(file) for file in sorted(path.glob("*.json*")) if file.suffix in (".json", ".gz")]
    twice = sorted(name for name, count in Counter(task.name for task in tasks).items() if count > 1)
    if twice:
        raise UsageError(f"{path} holds more than one prior called {', '.join(twice)}. Remove all but one.")
    return tuple(tasks)


def starter_tasks() -> tuple[PriorTask, ...]:
    """The tasks that ship: public measurements, each with its source and licence."""
    folder = resources.files("tuner.priors") / "starter"
    with resources.as_file(folder) as path:
        return tuple(read_prior(file) for file in sorted(path.glob("*.json.gz")))


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryContents:
    """What a library holds, in order of name.

    Attributes:
        tasks: all that can be read.
        unreadable: by name, why another cannot.
    """

    tasks: tuple[PriorTask, ...]
    unreadable: Mapping[str, UsageError]


class PriorLibrary:
    """A folder with one file per earlier task; every write is complete or does not happen."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def read(self) -> LibraryContents:
        """All tasks; one that is damaged, or of a newer version, takes no other down."""
        tasks, unreadable = [], {}
        for name in self.names():
            try:
                tasks.append(read_prior(self._path(name)))
            except UsageError as error:
                unreadable[name] = error
        return LibraryContents(tasks=tuple(tasks), unreadable=unreadable)

    def names(self) -> tuple[str, ...]:
        """Names of all tasks, in order."""
        return tuple(sorted(path.name.removesuffix(".json") for path in self.folder.glob("*.json")))

    def get(self, name: str) -> PriorTask:
        """The task of that name.

        Raises:
            UnknownNameError: there is none.
        """
        if name not in self.names():
            raise UnknownNameError("prior", name, self.names())
        return read_prior(self._path(name))

    def add(self, task: PriorTask, *, replace: bool = False) -> Path:
        """Stores a task.

        Raises:
            UsageError: its name is taken and `replace` is false.
            StorageError: the folder refuses.
        """
        path = self._path(task.name)
        if path.exists() and not replace:
            raise UsageError(f"The library already has a prior {task.name!r}. Choose another --name, or --replace it.")
        write_text(path, task.to_json() + "\n")
        return path

    def remove(self, name: str) -> None:
        """Forgets a task.

        Raises:
            UnknownNameError: there is none of that name.
        """
        # A damaged one can be forgotten, too.
        if name not in self.names():
            raise UnknownNameError("prior", name, self.names())
        self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def write_text(path: Path, text: str) -> None:
    """Writes a file as a whole: an interruption leaves the old one, or none.

    Raises:
        StorageError: the disk or the folder refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(text)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}.") from error

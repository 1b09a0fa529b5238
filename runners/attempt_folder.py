"""The folder of one attempt: texts that the server reads, its log, and the record of who started it.

All lie under one folder per user, `serving-tuner-UID` in the system's temporary folder, so that what a
dead tuner left is found and removed by `abandoned`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runners.owner import Owner
from tuner.errors import TrialFault, UnavailableError, UsageError
from tuner.trial import Attempt

_RECORD = "attempt.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFolder:
    """A folder of one attempt; it exists from `create` to `remove`.

    Attributes:
        path: the folder.
        attempt: whose it is.
    """

    path: Path
    attempt: Attempt

    @classmethod
    def locate(cls, attempt: Attempt) -> AttemptFolder:
        """Where the attempt's folder will be; nothing is made."""
        name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in attempt.token)
        return cls(path=user_folder() / name, attempt=attempt)

    @property
    def scratch(self) -> Path:
        """What the server reads: the specification's files and links."""
        return self.path / "scratch"

    @property
    def temporary(self) -> Path:
        """TMPDIR of a server that runs on the host."""
        return self.path / "tmp"

    @property
    def log(self) -> Path:
        """Output of a server that runs on the host."""
        return self.path / "server.log"

    def create(self) -> None:
        """Makes the folder and records its owner.

        Raises:
            TrialFault: the file system refuses.
        """
        try:
            self.path.mkdir(mode=0o700)
            self.scratch.mkdir()
            self.scratch.chmod(0o755)
            self.temporary.mkdir()
            self.record(Owner.current(), leader=None)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def record(self, owner: Owner, *, leader: Owner | None) -> None:
        """Writes down who runs the attempt, and the first process of its server where it is on the host."""
        content = {
            "study": self.attempt.study_id,
            "trial": self.attempt.trial,
            "token": self.attempt.token,
            "owner": str(owner),
            "leader": None if leader is None else str(leader),
        }
        unfinished = self.path / f".{_RECORD}"
        unfinished.write_text(json.dumps(content))
        unfinished.rename(self.path / _RECORD)

    def write(self, files: Mapping[str, str]) -> None:
        """Writes texts into the scratch folder, readable for everybody that reaches it.

        Raises:
            TrialFault: the file system refuses.
            UsageError: a name that leaves the scratch folder.
        """
        for name, text in files.items():
            path = self._inside(name)
            try:
                path.write_text(text)
                path.chmod(0o644)
            except OSError as error:
                raise cannot_write(path, error) from error

    def link(self, links: Mapping[str, Path], *, symbolic: bool) -> None:
        """Makes the host's files and folders appear in the scratch folder.

        Symbolic links serve processes of the host; for a container, empty files and folders are made for
        it to mount upon.

        Raises:
            TrialFault: the file system refuses.
            UsageError: a name that leaves the scratch folder, or a source that is not there.
        """
        for name, source in links.items():
            path = self._inside(name)
            if not source.exists():
                raise UsageError(f"{source}, which the server is to read as {name}, does not exist.")
            try:
                if symbolic:
                    path.symlink_to(source.resolve())
                elif source.is_dir():
                    path.mkdir()
                    path.chmod(0o755)
                else:
                    path.touch(0o644)
            except OSError as error:
                raise cannot_write(path, error) from error

    def remove(self) -> None:
        """Removes all of it; a folder that is not there is no fault."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _inside(self, name: str) -> Path:
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise UsageError(f"{name!r} is no path inside the scratch folder. Write a relative one, without '..'.")
        folder = self.scratch
        try:
            for part in relative.parts[:-1]:
                folder /= part
                folder.mkdir(exist_ok=True)
                folder.chmod(0o755)
        except OSError as error:
            raise cannot_write(folder, error) from error
        return folder / relative.parts[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonedAttempt:
    """An attempt whose tuner has died.

    Attributes:
        folder: of the attempt.
        leader: first process of its server, where there was one on the host.
    """

    folder: AttemptFolder
    leader: Owner | None


def abandoned(study_id: str) -> Iterator[AbandonedAttempt]:
    """The attempts of a study whose tuner has certainly died and left its folder."""
    for record in sorted(user_folder().glob(f"*/{_RECORD}")):
        try:
            content = json.loads(record.read_text())
            attempt = Attempt(study_id=content["study"], trial=content["trial"], token=content["token"])
            owner = Owner.parse(content["owner"])
            leader = Owner.parse(content["leader"] or "")
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if attempt.study_id == study_id and owner is not None and owner.is_dead():
            yield AbandonedAttempt(folder=AttemptFolder(path=record.parent, attempt=attempt), leader=leader)


def user_folder() -> Path:
    """The folder of all attempts of this user on this machine.

    Raises:
        TrialFault: the file system refuses.
        UnavailableError: somebody else has a folder of that name.
    """
    root = Path(tempfile.gettempdir()) / f"serving-tuner-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        status = root.lstat()
    except OSError as error:
        raise cannot_write(root, error) from error
    if status.st_uid != os.getuid() or not root.is_dir() or root.is_symlink():
        raise UnavailableError(f"{root} belongs to somebody else. Remove it, or set TMPDIR to a folder of your own.")
    return root


def cannot_write(path: Path, error: OSError) -> TrialFault:
    """The fault of the machine that the file system's refusal is."""
    return TrialFault(
        f"{path} cannot be written: {error.strerror or error}. Free some space, or set TMPDIR to another folder."
    )

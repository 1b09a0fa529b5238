"""Files that are written as a whole: an interruption or a full disk leaves the old one, or none."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its place at the end and is gone after a failure.

    Raises:
        OSError: the disk or the folder refuses.
    """
    target = path.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[TextIO]:
    """A text file to write, which takes its place at the end; gzipped where the name ends in .gz.

    What is no plain file (/dev/stdout, a pipe) is written as it goes.

    Raises:
        OSError: the disk or the folder refuses.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    with replacement(path) as partial, _opened(partial, packed=path.resolve().suffix == ".gz") as file:
        yield file


@contextlib.contextmanager
def _opened(path: Path, packed: bool) -> Iterator[TextIO]:
    if not packed:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    # Without a name and a time inside, equal texts make equal files.
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as binary,
        io.TextIOWrapper(binary, encoding="utf-8", newline="") as file,
    ):
        yield file

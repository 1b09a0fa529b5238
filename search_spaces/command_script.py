"""A shell script that starts a server as a process, by itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from tuner.errors import UsageError
from tuner.launch import LaunchSpec
from tuner.launch_texts import launch_texts

_MARK: Final = re.compile("\0([a-z]+)\0")
"""Stands in texts for what the script knows when it runs: one of its variables."""


def serve_script(spec: LaunchSpec, says: Sequence[str]) -> str:
    """Text of the script: it writes the server's files to a new folder, then becomes the server.

    Paths are those of this machine; the variables BIND and PORT say where it listens, and arguments are handed on.

    Args:
        spec: a process.
        says: comments.

    Raises:
        UsageError: a placeholder that means nothing, or a text that no shell can hold.
    """
    _check(spec)
    texts = launch_texts(
        spec,
        host="\0host\0",
        port="\0port\0",
        scratch="\0scratch\0",
        mounts={mount.name: str(mount.source) for mount in spec.mounts},
        forwarded={},
    )
    lines = ["#!/bin/sh", *(f"# {each}" for line in says for each in line.splitlines()), "set -eu"]
    lines.append("host=${BIND:-127.0.0.1} port=${PORT:-" + str(spec.port) + "}")
    if texts.files or "\0scratch\0" in "".join((*texts.argv, *texts.environment.values())):
        lines.append("scratch=$(mktemp -d)")
    for name, text in texts.files.items():
        folder = str(PurePosixPath(name).parent)
        if folder != ".":
            lines.append(f'mkdir -p "$scratch"/{shlex.quote(folder)}')
        lines.append(f'printf %s {_word(text)} >"$scratch"/{shlex.quote(name)}')
    # The arguments first: a variable of the server's may have the name of one of the script's.
    lines.append(f'set -- {" ".join(map(_word, texts.argv))} "$@"')
    if texts.environment:
        lines.append("export " + " ".join(f"{name}={_word(text)}" for name, text in texts.environment.items()))
    lines.append('exec "$@"')
    return "\n".join(lines) + "\n"


def _check(spec: LaunchSpec) -> None:
    """That the texts have no NUL: the marks begin and end with one, and a shell has no word for it."""
    texts = [("argument", text) for text in spec.argv]
    texts += [(f"variable {name}", text) for name, text in spec.environment.items()]
    texts += [("file name", name) for name in spec.files]
    texts += [(f"file {name!r}", text) for name, text in spec.files.items()]
    for kind, text in texts:
        if "\0" in text:
            raise UsageError(
                f"The {kind} has a NUL character, which no shell script can hold: {text[:80]!r}. Remove it."
            )


def _word(text: str) -> str:
    """The text as one word of a shell, variables in it filled in."""
    parts = _MARK.split(text)
    return "".join(f'"${part}"' if place % 2 else shlex.quote(part) for place, part in enumerate(parts) if part) or "''"

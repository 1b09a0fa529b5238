"""A launch specification's texts with their placeholders filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tuner.errors import UsageError, did_you_mean
from tuner.launch import LaunchSpec

SCRATCH_IN_CONTAINER: Final = "/serving-tuner"
"""Where a container finds the scratch folder."""

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_PLACEHOLDER = re.compile(r"\{(host|port|scratch|mount:[^{}]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchTexts:
    """What a server is started with, as it will read it.

    Attributes:
        argv: program and arguments.
        environment: variables, by name.
        files: contents, by path relative to the scratch folder.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    files: Mapping[str, str]


def literal(text: str) -> str:
    """A text in which nothing is filled in."""
    return text.replace("{", "{{").replace("}", "}}")


def launch_texts(
    spec: LaunchSpec,
    *,
    host: str,
    port: int | str,
    scratch: str,
    mounts: Mapping[str, str],
    forwarded: Mapping[str, str],
) -> LaunchTexts:
    """Fills in the placeholders of `spec`.

    Args:
        spec: where the texts are.
        host, port: where the server must listen.
        scratch: where the server finds `spec.files`.
        mounts: by name of a mount, where the server finds it.
        forwarded: environment that goes before the specification's own, taken as it is.

    Raises:
        UsageError: a placeholder that means nothing, or a single brace.
    """
    places = {"host": host, "port": str(port), "scratch": scratch}
    places |= {f"mount:{name}": path for name, path in mounts.items()}
    return LaunchTexts(
        argv=tuple(_filled(argument, places) for argument in spec.argv),
        environment={**forwarded, **{name: _filled(value, places) for name, value in spec.environment.items()}},
        files={
            name: _filled_file(name, text, places) if name in spec.templated_files else text
            for name, text in spec.files.items()
        },
    )


def container_texts(spec: LaunchSpec, forwarded: Mapping[str, str] | None = None) -> LaunchTexts:
    """The texts of `spec` for a container; `forwarded` and what is raised as for `launch_texts`."""
    return launch_texts(
        spec,
        host="0.0.0.0",  # noqa: S104 - of the container; it is published on 127.0.0.1 alone
        port=spec.port,
        scratch=SCRATCH_IN_CONTAINER,
        mounts={mount.name: mount.target for mount in spec.mounts},
        forwarded=forwarded or {},
    )


def _filled(text: str, places: Mapping[str, str]) -> str:
    def replaced(match: re.Match[str]) -> str:
        token = match.group(0)
        if token in ("{{", "}}"):
            return token[0]
        if match.group(1) is None:
            raise UsageError(f"{text!r} has a single {token!r}. Double it where the brace itself is meant.")
        return _place(match.group(1), places, repr(text))

    return _TOKEN.sub(replaced, text)


def _filled_file(name: str, text: str, places: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: _place(match.group(1), places, name), text)


def _place(name: str, places: Mapping[str, str], where: str) -> str:
    if name not in places:
        raise UsageError(f"{where} has the placeholder {{{name}}}. {did_you_mean(name, places)} Double literal braces.")
    return places[name]

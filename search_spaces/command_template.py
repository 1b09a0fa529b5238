"""Texts with `{placeholders}`: arguments, environment and configuration files of the `command` engine.

A placeholder is a name between single braces, `{threads}` or `{mount:data}`. Doubled braces around a name are
that name between literal braces: `{{threads}}` becomes `{threads}`. Any other brace is text, so that JSON and the
configuration files of most servers can be written as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tuner.launch_texts import literal
from tuner.parameter import Value

_NAME: Final = r"[A-Za-z_]\w*(?::[\w.-]+)?"
_TOKEN: Final = re.compile(rf"\{{\{{({_NAME})\}}\}}|\{{({_NAME})\}}")

RUNNER_PLACES: Final = ("host", "port", "scratch")
"""Placeholders that the runner fills in, beside `mount:NAME`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A text in which names stand for values.

    Attributes:
        pieces: literal texts and names in turn, beginning and ending with a literal one.
    """

    pieces: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """The template that `text` is; every text is one."""
        pieces = [""]
        end = 0
        for match in _TOKEN.finditer(text):
            pieces[-1] += text[end : match.start()]
            end = match.end()
            literal, name = match.groups()
            if literal is not None:
                pieces[-1] += "{" + literal + "}"
            else:
                pieces += [name, ""]
        pieces[-1] += text[end:]
        return cls(pieces=tuple(pieces))

    @property
    def names(self) -> frozenset[str]:
        """Every name that stands for a value."""
        return frozenset(self.pieces[1::2])

    @property
    def literals(self) -> tuple[str, ...]:
        """The texts between the names."""
        return self.pieces[::2]

    @property
    def for_runner(self) -> bool:
        """Whether a runner has something to fill in."""
        return any(is_runners(name) for name in self.names)

    def renamed(self, names: Mapping[str, str]) -> Template:
        """The template with other names: `names` maps old ones to new ones."""
        return Template(
            pieces=tuple(
                names.get(piece, piece) if position % 2 else piece for position, piece in enumerate(self.pieces)
            )
        )

    def argument(self, values: Mapping[str, str]) -> str:
        """The text as an argument or variable of a launch specification, where literal braces are doubled."""
        return "".join(
            _placed(piece, values, doubled=True) if position % 2 else literal(piece)
            for position, piece in enumerate(self.pieces)
        )

    def file(self, values: Mapping[str, str]) -> str:
        """The text as a file of a launch specification, where braces are themselves."""
        return "".join(
            _placed(piece, values, doubled=False) if position % 2 else piece
            for position, piece in enumerate(self.pieces)
        )


def is_runners(name: str) -> bool:
    """Whether a runner fills in the placeholder `name`."""
    return name in RUNNER_PLACES or name.startswith("mount:")


def written(value: Value) -> str:
    """A value as servers read it: `true`, `8`, `0.5`, `text`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _placed(name: str, values: Mapping[str, str], *, doubled: bool) -> str:
    if is_runners(name):
        return "{" + name + "}"
    value = values[name]
    return literal(value) if doubled else value

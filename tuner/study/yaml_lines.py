"""YAML that remembers on which line everything stands.

The values are those of YAML 1.2 (`on`, `yes` and `1:30` are texts, `1e3` is a number), which is what
editors assume. Only plain data is built; size, depth and the growth that aliases can cause are bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import yaml

from tuner.errors import Fault

Place = tuple[str | int, ...]
"""Keys and list positions that lead from the top of a document to a value."""

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 10_000
_PARSER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG: Final = "tag:yaml.org,2002:"
_PLAIN_KEY: Final = re.compile(r"[\w$<-]{1,40}")
_LARGEST: Final = 2**63
_START_OVER: Final = "`tune init` writes a study file to start from."


def dotted(place: Place) -> str:
    """`devices[0].price` for a place; unusual keys are quoted: `headers['a.b']`."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{_short(repr(part))}]"
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a YAML text says, and where.

    Attributes:
        value: mappings, lists, texts, numbers, booleans and `None`; entries at fault are left out of
            mappings, and `None` in lists.
        lines: 1-based line of every place.
        faults: what could not be read, each with the place of the entry left out for it, if any was.
    """

    value: object
    lines: Mapping[Place, int]
    faults: tuple[tuple[Place | None, Fault], ...] = ()

    def line(self, place: Place) -> int | None:
        """The line of `place`, or of the nearest thing around it that is written."""
        for length in range(len(place), 0, -1):
            if place[:length] in self.lines:
                return self.lines[place[:length]]
        return self.lines.get((), None)


class _TooMuch(Exception):
    """A bound is exceeded; the fault says which."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Composer(yaml.composer.Composer, yaml.resolver.BaseResolver):
    """Composes nodes with the scalars of YAML 1.2, to a bounded depth, from the events of the faster parser."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as in the base)

    def __init__(self, text: str) -> None:
        yaml.composer.Composer.__init__(self)
        yaml.resolver.BaseResolver.__init__(self)
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_PARSER)
        self._next: yaml.Event | None = None
        self._depth = 0

    def peek_event(self) -> yaml.Event | None:
        if self._next is None:
            self._next = next(self._events, None)
        return self._next

    def get_event(self) -> yaml.Event | None:
        event, self._next = self.peek_event(), None
        return event

    def check_event(self, *choices: type[yaml.Event]) -> bool:
        return isinstance(self.peek_event(), choices)

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        self._depth += 1
        event = self.peek_event()
        if self._depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event is not None and event.start_mark is not None else None
            problem = f"More than {MAX_DEPTH} levels are nested."
            raise _TooMuch(Fault(where="", problem=problem, remedy="Nest less.", line=line))
        node: yaml.Node | None = super().compose_node(parent, index)  # type: ignore[arg-type]
        self._depth -= 1
        return node


for _name, _pattern, _first in (
    ("merge", r"^<<$", "<"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
):
    _Composer.add_implicit_resolver(_TAG + _name, re.compile(_pattern), list(_first))


def read(data: bytes) -> Document:
    """The document in `data`; whatever is wrong with it is among the faults, and nothing is raised."""
    if len(data) > MAX_BYTES:
        return _refused(
            f"The file has {len(data)} bytes, more than {MAX_BYTES}.", "Keep long traces in files of their own."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return _refused(f"Byte {data[error.start]:#04x} is no UTF-8.", "Save the file as UTF-8 text.", line)
    try:
        node = _Composer(text).get_single_node()
    except _TooMuch as error:
        return Document(value=None, lines={(): 1}, faults=((None, error.fault),))
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        return _refused(f"The character U+{_code(error.character):04X} is not allowed in YAML.", "Remove it.", line)
    except yaml.MarkedYAMLError as error:
        return _refused(*_syntax(error, text))
    except yaml.YAMLError as error:
        return _refused(f"This is no YAML: {error}.", _START_OVER)
    if node is None:
        return _refused("The file is empty.", _START_OVER)
    builder = _Builder()
    try:
        value = builder.build(node, ())
    except _TooMuch as error:
        return Document(value=None, lines=builder.lines, faults=(*builder.faults, (None, error.fault)))
    return Document(value=value, lines=builder.lines, faults=tuple(builder.faults))


def _refused(problem: str, remedy: str, line: int | None = 1) -> Document:
    fault = Fault(where="", problem=problem, remedy=remedy, line=line)
    return Document(value=None, lines={(): 1}, faults=((None, fault),))


def _syntax(error: yaml.MarkedYAMLError, text: str) -> tuple[str, str, int]:
    mark = error.problem_mark or error.context_mark
    line = 1 if mark is None else mark.line + 1
    problem = error.problem or error.context or "this is no YAML"
    if "cannot start any token" in problem and "\t" in "".join(text.split("\n")[line - 1 : line]):
        return "A tab stands where YAML wants spaces.", "Indent with spaces.", line
    if error.context == "expected a single document in the stream":
        return "A second document begins here.", "Keep one document in one file; remove the line '---'.", line
    remedy = "Check indentation, colons, quotes and brackets of this line and the one before."
    if "mapping values are not allowed" in problem:
        remedy = "Put a text that contains ': ' in quotes, and indent keys of one mapping alike."
    if "alias" in problem:
        remedy = "Define the anchor (&name) before it is used (*name)."
    context = f", {error.context}" if error.context and error.context != problem else ""
    return f"YAML syntax: {problem}{context}.", remedy, line


_DROPPED: Final = object()


@dataclass(slots=True)
class _Builder:
    """Builds values from nodes; entries at fault are left out of mappings, and `None` in lists."""

    lines: dict[Place, int] = field(default_factory=dict)
    faults: list[tuple[Place | None, Fault]] = field(default_factory=list)
    built: int = 0
    open: list[yaml.Node] = field(default_factory=list)

    def drop(self, place: Place, node: yaml.Node, problem: str, remedy: str) -> object:
        """Leaves the entry at `place` out, because of a fault in it."""
        self.note(place, node, problem, remedy, left_out=place)
        return _DROPPED

    def note(self, place: Place, node: yaml.Node, problem: str, remedy: str, left_out: Place | None = None) -> None:
        line = node.start_mark.line + 1
        self.faults.append((left_out, Fault(where=dotted(place), problem=problem, remedy=remedy, line=line)))

    def build(self, node: yaml.Node, place: Place) -> object:
        self.built += 1
        line = node.start_mark.line + 1
        if self.built > MAX_VALUES or len(place) > MAX_DEPTH:
            problem = f"The file holds more than {MAX_VALUES} values once its aliases are followed."
            raise _TooMuch(Fault(where=dotted(place[:4]), problem=problem, remedy="Use fewer aliases.", line=line))
        self.lines.setdefault(place, line)
        if any(node is outer for outer in self.open):
            return self.drop(place, node, "This alias contains itself.", "Write the values out.")
        self.open.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self.mapping(node, place)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                items = [self.build(item, (*place, index)) for index, item in enumerate(node.value)]
                return [None if item is _DROPPED else item for item in items]
            if isinstance(node, yaml.ScalarNode):
                return self.scalar(node, place)
            return self.drop(place, node, f"The tag {_short(node.tag)} is not allowed here.", "Remove the tag.")
        finally:
            self.open.pop()

    def mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, object]:
        values: dict[str, object] = {}
        own: dict[str, int] = {}
        for key, item, is_own in self.entries(node, place):
            line = key.start_mark.line + 1
            name = key.value
            if is_own and name in own:
                problem = f"The key {name!r} is already given in line {own[name]}."
                self.note((*place, name), key, problem, "Remove one of the two.")
                continue
            if is_own:
                own[name] = line
            elif name in values:
                continue
            self.lines[(*place, name)] = line
            value = self.build(item, (*place, name))
            if value is not _DROPPED:
                values[name] = value
        return values

    def entries(self, node: yaml.MappingNode, place: Place) -> Iterator[tuple[yaml.ScalarNode, yaml.Node, bool]]:
        """Key and value nodes, the mapping's own ones first, then those that `<<` merges in."""
        merged: list[yaml.Node] = []
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.value:
                self.note(place, key, "A key is no plain text.", "Write a name before the colon.")
            elif key.tag == _TAG + "merge":
                merged += item.value if isinstance(item, yaml.SequenceNode) else [item]
            else:
                yield key, item, True
        for source in merged:
            if not isinstance(source, yaml.MappingNode) or any(source is outer for outer in self.open):
                self.note((*place, "<<"), source, "'<<' merges something that is no mapping.", "Name a mapping.")
                continue
            self.built += 1
            self.open.append(source)
            yield from ((key, item, False) for key, item, _ in self.entries(source, place))
            self.open.pop()

    def scalar(self, node: yaml.ScalarNode, place: Place) -> object:
        text: str = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "str" | "merge":
                    return text
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    whole = int(text, 0 if text[:2] in ("0x", "0o") else 10) if len(text) < 30 else _LARGEST
                    if abs(whole) < _LARGEST:
                        return whole
                    return self.drop(place, node, f"{_short(text)} is too large.", "Write a smaller number.")
                case "float":
                    number = float(re.sub(r"^([-+]?)\.(?=[inIN])", r"\1", text))
                    if math.isfinite(number):
                        return number
                    return self.drop(place, node, f"{_short(text)} is not finite.", "Write a finite number.")
        except ValueError:
            return self.drop(place, node, f"{_short(text)} is no {node.tag.removeprefix(_TAG)}.", "Remove the tag.")
        return self.drop(place, node, f"The tag {_short(node.tag)} is not allowed here.", "Remove the tag.")


def _code(character: int | str) -> int:
    return character if isinstance(character, int) else ord(character)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."

"""From plain values to the sections of a study file, with every fault and not only the first.

What is at fault is taken out and the rest is read again, until what is left can be read; so a fault in
one section does not hide those of another, nor those that only show once sections are compared.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tuner.errors import did_you_mean
from tuner.study.faults import Faults, shown, split_message
from tuner.study.fields import TOLD
from tuner.study.sections import FORMS, StudySections
from tuner.study.yaml_lines import Place

_REQUIRED: Final = tuple(name for name, info in StudySections.model_fields.items() if info.is_required())
_ROUNDS: Final = 100
_PROBLEMS: Final = {
    "int_type": "is no whole number",
    "int_from_float": "is no whole number",
    "float_type": "is no number",
    "bool_type": "is neither true nor false",
    "string_type": "is no text",
    "model_type": "is no mapping of keys",
    "dict_type": "is no mapping of keys",
    "list_type": "is no list",
    "literal_error": "is none of {expected}",
    "greater_than": "is not above {gt:g}",
    "greater_than_equal": "is below {ge:g}",
    "less_than": "is not below {lt:g}",
    "less_than_equal": "is above {le:g}",
    "string_pattern_mismatch": "does not have the form it needs",
    "string_too_short": "is empty",
    "string_too_long": "is longer than {max_length} characters",
    "too_short": "has fewer than {min_length} entries",
    "too_long": "has more than {max_length} entries",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSections:
    """The sections of a file as far as they could be read.

    Attributes:
        sections: what could be read; a required section that could not be holds an example.
        unread: required sections that are missing or at fault.
        kept: by place of a list from which entries were taken out, where the others stand in the file.
    """

    sections: StudySections
    unread: frozenset[str]
    kept: Mapping[Place, list[int]]

    def position(self, name: str, index: int) -> int:
        """Where the entry now at `index` of the top-level list `name` stands in the file."""
        return self.kept[(name,)][index] if (name,) in self.kept else index


def read_sections(value: object, faults: Faults) -> ReadSections:
    """The sections in a document's value; what cannot be read goes to `faults`."""
    if not isinstance(value, dict):
        problem = f"The file holds {shown(value)}, where it should hold keys and values."
        faults.add((), problem, "Write lines such as model: ./model.onnx.")
        value = {}
    values: dict[str, Any] = copy.deepcopy(value)
    kept: dict[Place, list[int]] = {}
    unread: set[str] = set()
    misspelt = {_meant(key, StudySections) for key in values if key not in StudySections.model_fields}
    absent = [name for name in _REQUIRED if name not in values and name not in misspelt]
    faults.add_together((), [((name,), *_absence(name, StudySections.model_fields[name])) for name in absent])
    for _ in range(_ROUNDS):
        for name in _REQUIRED:
            if name not in values:
                values[name] = copy.deepcopy(_example(StudySections.model_fields[name]))
                unread.add(name)
        try:
            return ReadSections(sections=StudySections.model_validate(values), unread=frozenset(unread), kept=kept)
        except ValidationError as error:
            details = error.errors(include_url=False)
        found: dict[Place, ErrorDetails] = {}
        for detail in details:
            found.setdefault(_place(values, detail), detail)
        meant = {
            ("missing", (*place[:-1], _meant(str(place[-1]), _schema_at(detail["loc"])[0])))
            for place, detail in found.items()
            if detail["type"] == "extra_forbidden"
        }
        told = {place: _told(detail) for place, detail in found.items() if (detail["type"], place) not in meant}
        faults.add_together((), [(_in_file(place, kept), *words) for place, words in told.items()])
        for place in sorted(found, key=_last_first, reverse=True):
            _take_out(values, place, kept)
    raise AssertionError("each round takes something out of a document of bounded size")


def _meant(key: str, section: type[BaseModel]) -> str:
    """The key of `section` that a misspelt one stands for; empty when there is none like it."""
    return next(iter(difflib.get_close_matches(key, section.model_fields, n=1)), "")


def _place(values: object, detail: ErrorDetails) -> Place:
    """Where the error is, without the names of union members that pydantic puts in between."""
    place: list[str | int] = []
    current: Any = values
    for part in detail["loc"]:
        keys = range(len(current)) if isinstance(current, list) else current if isinstance(current, dict) else ()
        if part in keys:
            current = current[part]
            place.append(part)
    if detail["type"] == "missing":
        place.append(detail["loc"][-1])
    return tuple(place)


def _in_file(place: Place, kept: Mapping[Place, list[int]]) -> Place:
    """`place` as it was before entries were taken out of lists."""
    original: list[str | int] = []
    for part in place:
        positions = kept.get(tuple(original))
        original.append(positions[part] if positions is not None and isinstance(part, int) else part)
    return tuple(original)


def _last_first(place: Place) -> tuple[tuple[int, str], ...]:
    return tuple((part, "") if isinstance(part, int) else (-1, part) for part in place)


def _take_out(values: dict[str, Any], place: Place, kept: dict[Place, list[int]]) -> None:
    """Removes the entry at `place`, or, where it is missing there, the section that needs it."""
    holder: Any = values
    for part in place[:-1]:
        try:
            holder = holder[part]
        except (KeyError, IndexError):
            return  # an enclosing entry has gone already
    if not place:
        values.clear()
        return
    last = place[-1]
    if isinstance(holder, list) and isinstance(last, int) and last < len(holder):
        positions = kept.setdefault(_in_file(place[:-1], kept), list(range(len(holder))))
        del holder[last], positions[last]
    elif isinstance(holder, dict) and last in holder:
        del holder[last]
    else:
        _take_out(values, place[:-1], kept)


def _told(detail: ErrorDetails) -> tuple[str, str]:
    """The problem and the remedy of a pydantic error, in our words."""
    section, info = _schema_at(detail["loc"])
    loc = [part for part in detail["loc"] if not str(part).startswith("<")]
    last = loc[-1] if loc else ""
    context = detail.get("ctx", {})
    if detail["type"] == TOLD:
        problem, remedy = split_message(detail["msg"])
    elif detail["type"] == "extra_forbidden":
        problem = f"Unknown key {shown(last)}."
        remedy = did_you_mean(str(last), section.model_fields)
    elif detail["type"] == "missing":
        return _absence(str(last), info)
    else:
        what = _PROBLEMS.get(detail["type"])
        told = what.format(**context) if what is not None else f"is refused: {detail['msg']}"
        problem, remedy = f"{shown(detail['input'])} {told}.", ""
    return problem, remedy or _suggestion(last, info)


def _absence(key: str, info: FieldInfo | None) -> tuple[str, str]:
    return f"The key {key!r} is missing.", _suggestion(key, info)


def _suggestion(key: str | int, info: FieldInfo | None) -> str:
    example = None if info is None else _example(info)
    if example is None:
        return "Remove it, or see `tune schema`."
    if isinstance(key, int):
        return f"Write for example {written(example[0] if isinstance(example, list) else example)}."
    return f"Write for example {key}: {written(example)}."


def written(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _example(info: FieldInfo) -> Any:
    return info.examples[0] if info.examples else None


def _schema_at(loc: tuple[str | int, ...]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The section that holds what is at `loc`, and the field it belongs to."""
    section: type[BaseModel] = StudySections
    inside: type[BaseModel] | None = None
    info: FieldInfo | None = None
    for part in loc:
        if part in FORMS:
            inside = FORMS[str(part)]
        elif isinstance(part, str) and not part.startswith("<"):
            if inside is not None:
                section, inside, info = inside, None, None
            if part in section.model_fields:
                info = section.model_fields[part]
                inside = _only_section(info.annotation)
    return section, info


def _only_section(annotation: object) -> type[BaseModel] | None:
    """The one section that an annotation speaks of; `None` where there is none or a choice."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = {found for found in map(_only_section, get_args(annotation)) if found is not None}
    return inner.pop() if len(inner) == 1 else None

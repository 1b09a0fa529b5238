"""The JSON Schema of study files (draft 2020-12), with the options of the engines and runners installed here."""

from __future__ import annotations

from typing import Any, Final

from tuner.errors import AdapterError
from tuner.study import adapters
from tuner.study.definition import AUTO
from tuner.study.fields import QUANTITY
from tuner.study.sections import StudySections
from tuner.units import Dimension

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_LOCAL: Final = "#/$defs/"


def json_schema() -> dict[str, Any]:
    """What a study file may hold; editors complete and check from it.

    Adapters that cannot be loaded are left out.
    """
    schema: dict[str, Any] = _plain(StudySections.model_json_schema())
    definitions: dict[str, Any] = schema.setdefault("$defs", {})
    definitions.pop("AdapterSection", None)
    for key, group, others in (("engine", adapters.SEARCH_SPACES, ()), ("runner", adapters.RUNNERS, (AUTO,))):
        field = schema["properties"][key]
        for union in ("anyOf", "oneOf"):
            field.pop(union, None)
        field["anyOf"] = _choices(key, group, others, definitions)
    return {"$schema": DIALECT, **schema, "title": "Study file of serving-tuner"}


def _choices(key: str, group: str, others: tuple[str, ...], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """An adapter by its name alone, or with its options; what these need goes to `definitions`."""
    schemas: dict[str, dict[str, Any]] = {}
    for name in adapters.names(group):
        try:
            adapter: Any = adapters.load(group, name)
        except AdapterError:
            continue
        schemas[name] = _plain(adapter.options_schema())
    forms: list[dict[str, Any]] = [{"enum": [*others, *schemas]}]
    for name, options in schemas.items():
        prefix = f"{key}.{name}."
        for inner, definition in options.get("$defs", {}).items():
            definitions[prefix + inner] = _renamed(definition, prefix)
        body = _renamed({part: value for part, value in options.items() if part not in ("$defs", "$schema")}, prefix)
        properties = {"name": {"const": name, "description": "Which one."}, **body.get("properties", {})}
        form = {**body, "title": f"{key} {name}", "type": "object", "properties": properties}
        form["required"] = ["name", *body.get("required", ())]
        form["additionalProperties"] = body.get("additionalProperties", False)
        forms.append(form)
    return forms


def _plain(schema: Any) -> Any:
    """`schema` as people write files: no nulls, no generated titles, defaults with their units."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    forms = schema.get("anyOf")
    if isinstance(forms, list) and {"type": "null"} in forms and len(forms) == 2:
        form = next(form for form in forms if form != {"type": "null"})
        schema = {**form, **{name: part for name, part in schema.items() if name != "anyOf"}}
    plain = {name: _plain(part) for name, part in schema.items()}
    if isinstance(plain.get("title"), str):
        del plain["title"]
    if plain.get("default", ...) in (None, [], {}):
        del plain["default"]
    unit = plain.pop(QUANTITY, None)
    if unit is not None and isinstance(plain.get("default"), float):
        plain["default"] = _written(plain["default"], Dimension(unit))
    return plain


def _written(value: float, dimension: Dimension) -> str:
    return f"{value * 100:g}%" if dimension is Dimension.SHARE else f"{value:g} {dimension.value}"


def _renamed(schema: Any, prefix: str) -> Any:
    """`schema` with its references led to definitions whose names begin with `prefix`."""
    if isinstance(schema, list):
        return [_renamed(part, prefix) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _LOCAL + prefix + part.removeprefix(_LOCAL)
        if name == "$ref" and isinstance(part, str) and part.startswith(_LOCAL)
        else _renamed(part, prefix)
        for name, part in schema.items()
    }

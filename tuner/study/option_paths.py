"""Paths in adapters' options: they start at the study file's folder, as every path in a study file does.

Which options are paths, an adapter's schema says: strings of the format `path`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def path_at(folder: Path, written: str) -> Path:
    """The path that a study file in `folder` means: a relative one starts there, `~` is somebody's home."""
    path = Path(written)
    with contextlib.suppress(RuntimeError):  # no such user: what does not exist is told by whoever needs it
        path = path.expanduser()
    return folder / path


def located(options: Mapping[str, object], schema: Mapping[str, Any], folder: Path) -> dict[str, object]:
    """The options with every relative path made absolute.

    Args:
        options: of an adapter, as the study file has them; faulty ones are left as they are.
        schema: JSON Schema of the options.
        folder: where relative paths start.
    """
    return {name: _located(value, _member(schema, name), schema, folder) for name, value in options.items()}


def _located(value: object, schema: Mapping[str, Any], root: Mapping[str, Any], folder: Path) -> object:
    if "$ref" in schema:
        return _located(value, root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2], {}), root, folder)
    for alternative in schema.get("anyOf", ()):
        value = _located(value, alternative, root, folder)
    if isinstance(value, str) and value and schema.get("format") == "path":
        return str(path_at(folder, value))
    if isinstance(value, Mapping):
        return {name: _located(part, _member(schema, str(name)), root, folder) for name, part in value.items()}
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [_located(part, schema["items"], root, folder) for part in value]
    return value


def _member(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    patterns = schema.get("patternProperties", {})
    matching = (found for pattern, found in patterns.items() if re.search(pattern, name))
    found = schema.get("properties", {}).get(name) or next(matching, schema.get("additionalProperties"))
    return found if isinstance(found, Mapping) else {}

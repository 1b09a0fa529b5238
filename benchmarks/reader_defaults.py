"""What configurations of each family say where they say nothing: writes `profilers/huggingface/defaults.json`.

    python -m benchmarks.reader_defaults

Published configurations leave out what equals the default of their class in transformers. The reader knows
those defaults, of the families and keys that it reads, without importing transformers. Run this again for a
family or a key that is added to it.
"""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

READER: Final = Path(__file__).resolve().parents[1] / "profilers" / "huggingface"
FILE: Final = READER / "defaults.json"
_PARTS: Final = ("text_config", "vision_config")


def keys_read() -> frozenset[str]:
    """Every text in the reader that could be a key."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in sorted(READER.glob("*.py")))
    texts = {
        node.value.removeprefix("!")
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return frozenset(text for text in texts if text.isidentifier())


def defaults(families: Iterable[str], keys: frozenset[str]) -> dict[str, dict[str, Any]]:
    """Of each family: other names of keys, families of its parts, and values."""
    from transformers import CONFIG_MAPPING

    found: dict[str, dict[str, Any]] = {}
    waiting = sorted(families, reverse=True)
    while waiting:
        family = waiting.pop()
        if family in found or family not in CONFIG_MAPPING:
            continue
        one = CONFIG_MAPPING[family]
        made = one()
        parts = {part: made.to_dict()[part].get("model_type", "") for part in _PARTS if _holds(made, part)}
        stated = {
            one.attribute_map.get(field.name, field.name): _plain(field.default)
            for field in dataclasses.fields(one)
            if field.name in keys and _is_plain(field.default)
        }
        aliases = {alias: name for alias, name in one.attribute_map.items() if alias in keys or name in keys}
        found[family] = {
            name: dict(sorted(values.items()))
            for name, values in (("aliases", aliases), ("parts", parts), ("values", stated))
            if values
        }
        waiting += [part for part in parts.values() if part]
    return dict(sorted(found.items()))


def _holds(made: Any, part: str) -> bool:
    return part in made.sub_configs and isinstance(made.to_dict().get(part), dict)


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(item, int | str) for item in value)
    return isinstance(value, bool | int | str)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def main() -> None:
    """Writes the file."""
    from profilers.huggingface.reader import FAMILIES_READ

    text = json.dumps(defaults(FAMILIES_READ, keys_read()), indent=1, sort_keys=True)
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

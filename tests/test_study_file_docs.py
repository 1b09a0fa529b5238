"""docs/study-file.md says what the program does.

The tables between its markers are written by `TUNER_WRITE_DOCS=1 pytest tests/test_study_file_docs.py`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuner.metric import Direction, Metric
from tuner.study import trace
from tuner.study.faults import Faults
from tuner.study.schema import json_schema
from tuner.study.structure import read_sections, written
from tuner.study.yaml_lines import read

PAGE = Path(__file__).resolve().parents[1] / "docs" / "study-file.md"
MARKED = re.compile(r"<!-- (keys: (\w+)|columns|metrics) -->\n(.*?)<!-- end -->", re.DOTALL)
SCHEMA = json_schema()


def _cell(text: object) -> str:
    return f"`{written(text)}`".replace("|", "\\|")


def _keys(section: str) -> str:
    schema = SCHEMA if section == "StudySections" else SCHEMA["$defs"][section]
    lines = ["| key | example | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in schema["properties"].items():
        about = {**SCHEMA["$defs"][field["$ref"].split("/")[-1]], **field} if "$ref" in field else field
        name = f"**{key}**" if key in schema.get("required", ()) else key
        default = _cell(field["default"]) if "default" in field else ""
        lines.append(f"| {name} | {_cell(_in_order(field['examples'][0]))} | {default} | {about['description']} |")
    return "\n".join(lines) + "\n"


def _in_order(value: Any) -> Any:
    """JSON Schemas come with sorted keys; a device begins with its name."""
    if isinstance(value, list):
        return [_in_order(item) for item in value]
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value, key=lambda key: (key != "name", key))}
    return value


def _columns() -> str:
    about = (
        (trace.ARRIVAL_S, "arrival: seconds, or a date and time; only differences count"),
        (trace.ARRIVAL_MS, "arrival in milliseconds, instead"),
        (trace.INPUT_TOKENS, "prompt length, optional"),
        (trace.OUTPUT_TOKENS, "answer length, optional"),
    )
    rows = [f"| `{names[0]}` | {', '.join(f'`{name}`' for name in names[1:])} | {says} |" for names, says in about]
    return "\n".join(["| column | also called | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def _metrics() -> str:
    rows = [
        f"| `{metric.value}` | {metric.dimension.value} "
        f"| {'higher' if metric.direction is Direction.MAXIMIZE else 'lower'} "
        f"| {'needed' if metric.is_population else ''} |"
        for metric in Metric
    ]
    return "\n".join(["| metric | unit | better | statistic |", "| --- | --- | --- | --- |", *rows]) + "\n"


def _written_anew(match: re.Match[str]) -> str:
    kind = match.group(1)
    body = {"columns": _columns, "metrics": _metrics}.get(kind, lambda: _keys(str(match.group(2))))()
    return f"<!-- {kind} -->\n{body}<!-- end -->"


def test_the_tables_are_those_of_the_program() -> None:
    page = PAGE.read_text()
    expected = MARKED.sub(_written_anew, page)
    if os.environ.get("TUNER_WRITE_DOCS"):
        PAGE.write_text(expected)
    assert page == expected


def test_every_section_has_a_table() -> None:
    shown = {match.group(2) for match in MARKED.finditer(PAGE.read_text())}
    sections = {name for name, part in SCHEMA["$defs"].items() if name[0].isupper() and "properties" in part}
    explained_in_words = {"ModelPath", "ModelHub"}
    assert sections - explained_in_words <= shown


@pytest.mark.parametrize("snippet", re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_every_example_can_be_read(snippet: str) -> None:
    required = {key: SCHEMA["properties"][key]["examples"][0] for key in SCHEMA["required"]}
    whole = yaml.safe_dump({**required, **yaml.safe_load(snippet)})
    document = read(whole.encode())
    faults = Faults(document)
    read_sections(document.value, faults)
    assert faults.found == []

"""Scripts that start a server: whatever its texts hold, it reads them as under a runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.command_script import serve_script
from tuner.errors import UsageError
from tuner.launch import CompletionRequest, HealthCheck, LaunchSpec, Mount
from tuner.launch_texts import literal
from tuner.workload import TokenShapes

SHOWN = """
import json, os, sys
from pathlib import Path
scratch, names, *argv = sys.argv[1:]
paths = [path for path in Path(scratch).rglob("*") if path.is_file()]
files = {str(path.relative_to(scratch)): path.read_bytes().decode() for path in paths}
print(json.dumps([argv, {name: os.environ[name] for name in json.loads(names)}, files, scratch]))
"""
PLACES = {"{host}": "10.0.0.1", "{port}": "9001", "{mount:data}": "/data of it's own"}
SPEC = LaunchSpec(
    argv=("serve",),
    health=HealthCheck(path="/"),
    request=CompletionRequest(
        model_name="m", shapes=TokenShapes(input_tokens=(1,), output_tokens=(1,)), token_ids=None
    ),
    mounts=(Mount(name="data", source=Path("/data of it's own"), target="/data"),),
)
HARD = st.sampled_from(["'", '"', "\\", "$HOME", "`id`", "$(id)", "\n", "-n", "~", "*", "#", ";", "=", "%s", " ", "é"])
TEXTS = st.lists(HARD | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)).map(
    "".join
)
PIECES = st.lists(st.sampled_from(list(PLACES)) | TEXTS, max_size=4)
PARTS = st.lists(HARD, min_size=1, max_size=3).map("".join)


def shown(spec: LaunchSpec, folder: Path, *last: str) -> list[object]:
    """What a server that prints it was given, and the folder of its files in place of their place."""
    argv = (sys.executable, "-c", literal(SHOWN), "{scratch}", literal(json.dumps(list(spec.environment))), *spec.argv)
    script = serve_script(replace(spec, argv=argv), ["says\nexit 1"])
    environment = {"PATH": os.environ["PATH"], "BIND": "10.0.0.1", "PORT": "9001", "TMPDIR": str(folder)}
    run = ["/bin/sh", "-c", script, "serve.sh", *last]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    found: list[object] = json.loads(done.stdout)
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(PIECES, max_size=3),
    st.dictionaries(st.sampled_from(["A", "host", "port", "scratch"]), PIECES),
    st.dictionaries(st.tuples(PARTS, PARTS).map(lambda parts: f"{parts[0]}/{parts[1]}"), TEXTS, max_size=2),
)
def test_a_server_reads_texts_as_they_are_and_places_filled_in(
    tmp_path_factory: pytest.TempPathFactory,
    arguments: list[list[str]],
    variables: dict[str, list[str]],
    files: dict[str, str],
) -> None:
    def written(pieces: list[str]) -> str:
        return "".join(piece if piece in PLACES else literal(piece) for piece in pieces)

    def read(pieces: list[str]) -> str:
        return "".join(PLACES.get(piece, piece) for piece in pieces)

    spec = replace(
        SPEC,
        argv=tuple(map(written, arguments)),
        environment={name: written(pieces) for name, pieces in variables.items()},
        files=files,
    )
    argv, environment, found, _ = shown(spec, tmp_path_factory.mktemp("run"), "--last")
    assert argv == [*map(read, arguments), "--last"]
    assert environment == {name: read(pieces) for name, pieces in variables.items()}
    assert found == files


def test_files_may_say_where_they_lie(tmp_path: Path) -> None:
    text = '{"port": {port}, "here": "{scratch}"}'
    _, _, files, scratch = shown(replace(SPEC, files={"a.json": text}, templated_files=frozenset({"a.json"})), tmp_path)
    assert files == {"a.json": f'{{"port": 9001, "here": "{scratch}"}}'}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"argv": ("serve", "\0host\0")}, "argument has a NUL"),
        ({"environment": {"A": "a\0b"}}, "variable A has a NUL"),
        ({"files": {"a\0": ""}}, "file name has a NUL"),
        ({"files": {"a.bin": "\0"}}, "file 'a.bin' has a NUL"),
    ],
)
def test_what_no_shell_can_hold_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        serve_script(replace(SPEC, **changes), [])  # type: ignore[arg-type]

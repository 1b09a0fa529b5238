"""Finding adapters: ours like anyone's, and never a stranger in their place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.errors import AdapterError, OptionsError, UnknownNameError
from tuner.study import adapters
from tuner.testing.fakes import FakeRunner, FakeSearchSpace, installed

LOAD_RUNNER = """
from tuner.errors import AdapterError
from tuner.study import adapters
try:
    adapters.load(adapters.RUNNERS, "process")
except AdapterError as error:
    print(error)
else:
    print("loaded")
"""


def _in_folder(folder: Path, **environment: str) -> str:
    """What `LOAD_RUNNER` prints in a process that is started from a folder, as `python -c` is."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD_RUNNER],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_adapters_are_found_by_entry_point() -> None:
    assert {"triton", "vllm", "command"} <= set(adapters.names(adapters.SEARCH_SPACES))
    assert {"docker", "process"} <= set(adapters.names(adapters.RUNNERS))
    assert "fake" not in adapters.names(adapters.RUNNERS)
    with installed():
        assert "fake" in adapters.names(adapters.RUNNERS)
        assert isinstance(adapters.search_space("fake", {}), FakeSearchSpace)
        assert isinstance(adapters.runner("fake", {"noise": 0}), FakeRunner)
    assert "fake" not in adapters.names(adapters.RUNNERS)


@pytest.mark.parametrize("group", [adapters.SEARCH_SPACES, adapters.RUNNERS, adapters.LOAD_DRIVERS])
def test_every_adapter_of_ours_loads(group: str) -> None:
    for name in adapters.names(group):
        assert adapters.load(group, name).__doc__


def test_a_misspelt_name_brings_its_neighbours() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown runner 'dokcer'\. Did you mean 'docker'\?"):
        adapters.load(adapters.RUNNERS, "dokcer")


def test_a_broken_adapter_fails_by_name_and_package_and_takes_no_other_down() -> None:
    entry_points = (
        "[tuner.runners]\nmissing = no_such_package:Runner\nunnamed = tuner.errors:NoSuchName\n"
        "whole = tuner.testing.fakes:FakeRunner\n"
    )
    with installed(entry_points) as folder:
        with pytest.raises(AdapterError, match="'missing' of tuner_fakes") as caught:
            adapters.load(adapters.RUNNERS, "missing")
        assert "No module named 'no_such_package'" in str(caught.value)
        with pytest.raises(AdapterError, match="AttributeError"):
            adapters.load(adapters.RUNNERS, "unnamed")
        assert adapters.load(adapters.RUNNERS, "whole") is FakeRunner
        assert folder.is_dir()


def test_options_are_refused_all_at_once() -> None:
    with installed(), pytest.raises(OptionsError) as caught:
        adapters.runner("fake", {"noise": -1, "second": 2})
    assert [fault.where for fault in caught.value.faults] == ["noise", "second"]


@pytest.mark.parametrize("form", ["package", "module"])
def test_a_foreign_package_in_place_of_ours_is_named_with_its_remedy(form: str, tmp_path: Path) -> None:
    foreign = tmp_path / ("runners" if form == "package" else "runners.py")
    source = foreign
    if form == "package":
        foreign.mkdir()
        source = foreign / "__init__.py"
    source.write_text("raise SystemExit('a stranger ran')")
    message = _in_folder(tmp_path)
    assert str(foreign) in message
    assert "the package 'runners' of serving-tuner" in message
    assert "Rename that folder or file" in message
    assert "python -P" in message


def test_a_folder_that_is_no_package_is_passed_over_or_named(tmp_path: Path) -> None:
    # An installed package goes before such a folder; one that is installed in place (pip install -e) does not.
    tmp_path.joinpath("runners").mkdir()
    tmp_path.joinpath("runners", "process.py").write_text("raise SystemExit('a stranger ran')")
    message = _in_folder(tmp_path)
    assert message == "loaded" or str(tmp_path / "runners") in message


def test_the_shadow_may_come_from_pythonpath(tmp_path: Path) -> None:
    tmp_path.joinpath("runners").mkdir()
    tmp_path.joinpath("runners", "__init__.py").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert repr(str(tmp_path)) in _in_folder(elsewhere, PYTHONPATH=str(tmp_path))
    assert _in_folder(elsewhere) == "loaded"

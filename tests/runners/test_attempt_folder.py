"""Folders of attempts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runners.attempt_folder import AttemptFolder, abandoned
from runners.owner import Owner
from tests.runners.trials import some_attempt
from tuner.errors import TrialFault, UsageError


@pytest.fixture
def folder() -> Iterator[AttemptFolder]:
    made = AttemptFolder.locate(some_attempt())
    made.create()
    yield made
    made.remove()


def test_folder_is_private_and_what_a_container_reads_is_not(folder: AttemptFolder) -> None:
    folder.write({"deep/er/text": "x"})
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert (folder.scratch / "deep" / "er").stat().st_mode & 0o005 == 0o005
    assert (folder.scratch / "deep" / "er" / "text").stat().st_mode & 0o004


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../outside", ""])
def test_name_that_leaves_the_scratch_folder_is_refused(folder: AttemptFolder, name: str) -> None:
    with pytest.raises(UsageError, match="no path inside the scratch folder"):
        folder.write({name: "x"})


def test_full_or_refusing_disk_is_no_fault_of_the_configuration(folder: AttemptFolder) -> None:
    (folder.scratch / "file").write_text("")
    with pytest.raises(TrialFault, match="Free some space, or set TMPDIR"):
        folder.write({"file/below": "x"})


def test_only_folders_of_the_dead_and_of_the_study_are_abandoned(folder: AttemptFolder) -> None:
    study_id = folder.attempt.study_id
    assert folder.path not in [one.folder.path for one in abandoned(study_id)]
    folder.record(replace(Owner.current(), started_ticks=1), leader=None)
    assert folder.path in [one.folder.path for one in abandoned(study_id)]
    assert folder.path not in [one.folder.path for one in abandoned("another study")]


def test_damaged_record_is_left_alone(folder: AttemptFolder) -> None:
    (folder.path / "attempt.json").write_text("{")
    assert folder.path not in [one.folder.path for one in abandoned(folder.attempt.study_id)]


def test_linked_source_must_exist(folder: AttemptFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        folder.link({"model": tmp_path / "none"}, symbolic=True)

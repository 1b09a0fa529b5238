"""A disk that fills up in the middle of a study: told in words, and nothing that was told is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tuner
from tuner.errors import StorageError
from tuner.study.definition import Study
from tuner.study.record import State


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 700 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_full_disk_ends_the_run_with_a_remedy_and_the_study_goes_on(
    make_study: Callable[..., Study], small_disk: Path
) -> None:
    study = make_study(trials=30, confirmations=0, storage=f"sqlite:///{small_disk / 'study.db'}")
    with pytest.raises(StorageError, match="Free some space"):
        tuner.tune(study)
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    before = [record for record in tuner.load_result(study).records if record.state is State.DONE]
    after = tuner.tune(study).records
    assert sum(record.state is State.DONE for record in after) == 30
    assert [record for record in after if record.state is State.DONE][: len(before)] == before

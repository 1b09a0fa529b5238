"""Files that are written as a whole."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tuner.whole_file import written_whole


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with written_whole(path) as file:
        file.write("old\n")
    with pytest.raises(TypeError), written_whole(path) as file:
        file.writelines(["new\n", 5])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == [path]
    assert (gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()) == b"old\n"


def test_a_link_goes_on_to_lead_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with written_whole(tmp_path / "link") as file:
        file.write("text")
    assert (tmp_path / "file").read_text() == "text"


def test_what_is_no_file_is_written_as_it_goes() -> None:
    with pytest.raises(OSError, match="No space"), written_whole(Path("/dev/full")) as file:
        file.write("text")


def test_equal_texts_make_equal_archives(tmp_path: Path) -> None:
    for name in ("one.gz", "other.gz"):
        with written_whole(tmp_path / name) as file:
            file.write("text\r\n")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "other.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.gz").read_bytes()) == b"text\r\n"

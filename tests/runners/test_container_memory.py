"""Memory kills in control groups of both versions."""

from __future__ import annotations

from pathlib import Path

from runners.container_memory import oom_counter, oom_kills


def test_version_1_counts_in_the_memory_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("11:cpu,cpuacct:/docker/abc\n9:memory:/docker/abc\n0::/other\n")
    group = tmp_path / "memory" / "docker" / "abc"
    group.mkdir(parents=True)
    (group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert oom_kills(oom_counter(7, proc=tmp_path, root=tmp_path)) == 2


def test_version_2_counts_in_the_events(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("0::/system.slice/docker-abc.scope\n")
    group = tmp_path / "system.slice" / "docker-abc.scope"
    group.mkdir(parents=True)
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 31\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert oom_kills(oom_counter(7, proc=tmp_path, root=tmp_path)) == 1


def test_what_cannot_be_seen_counts_nothing(tmp_path: Path) -> None:
    assert oom_counter(7, proc=tmp_path, root=tmp_path) is None
    assert oom_kills(None) == 0
    assert oom_kills(tmp_path / "gone") == 0

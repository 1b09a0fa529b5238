"""Settings of the whole suite."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, and no deadline: an example that is slow on a busy machine is not wrong.
# `pytest --hypothesis-profile thorough` looks further.
settings.register_profile("seeded", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("seeded")


@pytest.fixture(scope="session")
def _libraries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the library of the next test would be; only those that are written to become folders."""
    folder = tmp_path_factory.mktemp("libraries")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _library_of_its_own(_libraries: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the earlier tasks of whoever runs it."""
    monkeypatch.setenv("TUNER_PRIORS", str(next(_libraries)))

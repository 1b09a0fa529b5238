"""Settings of the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, and no deadline: an example that is slow on a busy machine is not wrong.
# `pytest --hypothesis-profile thorough` looks further.
settings.register_profile("seeded", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("seeded")


@pytest.fixture(autouse=True)
def _library_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the earlier tasks of whoever runs it."""
    folder = tmp_path_factory.mktemp("library") / "priors"
    monkeypatch.setenv("TUNER_PRIORS", str(folder))
    return folder

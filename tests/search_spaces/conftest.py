"""Models that several tests of the engines serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.search_spaces.vllm_tasks import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "llama")

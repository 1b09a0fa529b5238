"""Where the operator tables that come with the package are."""

from __future__ import annotations

from pathlib import Path


def folder() -> Path:
    """Holds one folder per measured device."""
    return Path(__file__).with_name("tables")

"""Names of the environment variables that an engine's options may set."""

from __future__ import annotations

import re
from typing import Final

VARIABLE: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
"""Matches the name of a variable."""

_SECRET: Final = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIALS?)$", re.IGNORECASE)


def is_variable(name: str) -> bool:
    """Whether a variable may be called so."""
    return re.fullmatch(VARIABLE, name) is not None


def is_secret(name: str) -> bool:
    """Whether a variable of that name likely holds a secret, which options must not: they are stored and exported."""
    return _SECRET.search(name) is not None

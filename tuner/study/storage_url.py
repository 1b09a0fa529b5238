"""Storage URLs as a study file writes them: relative paths, and passwords from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tuner.errors import UnavailableError, UsageError

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_EXAMPLES: Final = "sqlite:///study.db or postgresql+psycopg://user:${PASSWORD}@host/database"
_EXTRA: Final = {
    "psycopg": "pip install 'serving-tuner[postgresql]'",
    "psycopg2": "pip install psycopg2-binary",
    "MySQLdb": "pip install mysqlclient",
}


def storage_url(text: str, folder: Path, environment: Mapping[str, str]) -> str:
    """The URL that `text` means, with `${NAME}` filled in and a SQLite path made absolute.

    Raises:
        UsageError: it is no URL of a database that keeps a study, or names a variable that is not set.
            The message never holds what a variable stands for.
        UnavailableError: the driver of that database is not installed.
    """
    unset = [name for name in _VARIABLE.findall(text) if name not in environment]
    if unset:
        raise UsageError(f"The environment variable {unset[0]} is not set. Set it before starting: export {unset[0]}=…")
    filled = _VARIABLE.sub(lambda match: environment[match.group(1)], text)
    try:
        url = make_url(filled)
        dialect = url.get_dialect()
    except (ArgumentError, ValueError):
        raise UsageError(f"The storage is no URL. Write for example {_EXAMPLES}.") from None
    except (SQLAlchemyError, ImportError):
        scheme = filled.partition(":")[0]
        raise UsageError(
            f"The storage is on {scheme!r}, which is no database. Write for example {_EXAMPLES}."
        ) from None
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, folder)
    try:
        dialect.import_dbapi()
    except ImportError as error:
        package = error.name or url.drivername
        install = _EXTRA.get(package, f"pip install {package}")
        raise UnavailableError(f"The storage needs the package {package!r}. Install it: {install}") from None
    return url.render_as_string(hide_password=False)


def default_storage(folder: Path, study: str) -> str:
    """The URL of a study's own SQLite file, in the folder `.tuner` beside the study file."""
    return _rendered(folder / ".tuner" / f"{study}.db")


def _sqlite(url: URL, folder: Path) -> str:
    if not url.database or url.database == ":memory:":
        raise UsageError("The storage is in memory, which keeps nothing. Write for example sqlite:///study.db.")
    if url.query or url.database.startswith("file:"):
        raise UsageError("The storage has SQLite options. Write the path alone, for example sqlite:///study.db.")
    return _rendered(folder / url.database)


def _rendered(path: Path) -> str:
    text = f"sqlite:///{path}"
    if make_url(text).database != str(path):
        raise UsageError(f"The path {path} cannot be written in a URL. Choose a storage in another folder.")
    return text

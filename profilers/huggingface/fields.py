"""Reading keys of a `config.json`: checked types, several names for one thing, faults that name the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeGuard

from tuner.errors import ModelError

_LARGEST: Final = 2.0**40
"""No size, count or length in a model comes near it."""
_LAYERS: Final = 10_000
"""Each is looked at by itself."""


class Fields:
    """The keys of one (sub-)configuration.

    Args:
        values: as parsed from JSON.
        source: what to call the file in errors.
    """

    def __init__(self, values: Mapping[str, object], source: str) -> None:
        self._values = values
        self.source = source

    def __contains__(self, name: object) -> bool:
        return self._values.get(str(name)) is not None

    def integer(self, *names: str, default: int | None = None) -> int:
        """The first of `names` that is present, as a positive integer (0 is allowed with a default).

        Raises:
            ModelError: none is present and there is no default, or it is no such number.
        """
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            if not _is_whole(value):
                raise ModelError(f"{self.source}: {name!r} is {value!r}. Write a whole number of 0 or more.")
            if ("layers" in name or name == "n_layer") and value > _LAYERS:
                raise ModelError(f"{self.source}: {name!r} is {value!r}. Write a number of {_LAYERS} or less.")
            if value == 0 and default is None:
                raise ModelError(f"{self.source}: {name!r} is 0. Write a whole number above 0.")
            return int(value)
        if default is None:
            raise ModelError(
                f"{self.source}: {' or '.join(repr(name) for name in names)} is missing. "
                "Add it, or use the config.json that the model's authors published."
            )
        return default

    def optional(self, *names: str) -> int | None:
        """As `integer`, `None` where absent, null or 0."""
        return self.integer(*names, default=0) or None

    def number(self, name: str, default: float) -> float:
        """A finite number, whichever its sign."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
            raise ModelError(f"{self.source}: {name!r} is {value!r}. Write a number.")
        return float(value)

    def flag(self, *names: str, default: bool = False) -> bool:
        """The first of `names` that is present, as true or false."""
        for name in names:
            value = self._values.get(name)
            if value is not None:
                return bool(value)
        return default

    def text(self, *names: str, default: str = "") -> str:
        """The first of `names` that is present, as text."""
        for name in names:
            value = self._values.get(name)
            if isinstance(value, str):
                return value
        return default

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, empty where absent."""
        value = self._values.get(name)
        return tuple(str(item) for item in value) if isinstance(value, list) else ()

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers, empty where absent or no list.

        Raises:
            ModelError: one of its values is no whole number of 0 or more.
        """
        value = self._values.get(name)
        if not isinstance(value, list):
            return ()
        for place, item in enumerate(value):
            if not _is_whole(item):
                raise ModelError(
                    f"{self.source}: {name!r} holds {item!r} at place {place}. Write whole numbers of 0 or more."
                )
        return tuple(int(item) for item in value)

    def length(self, name: str, default: int) -> int:
        """Items of a list."""
        value = self._values.get(name)
        return len(value) if isinstance(value, list) else default

    def fields(self, name: str) -> Fields | None:
        """A nested object, `None` where absent."""
        value = self._values.get(name)
        return Fields(value, f"{self.source}: {name}") if isinstance(value, dict) else None

    def filled(self, values: Mapping[str, object], aliases: Mapping[str, str] | None = None) -> Fields:
        """The same, with `values` where nothing is stated (null is a statement), `aliases` by their other name."""
        stated = {(aliases or {}).get(name, name): value for name, value in self._values.items()}
        return Fields({**values, **stated, **self._values}, self.source)

    def renamed(self, family: str) -> Fields:
        """The same keys as another family's."""
        return Fields({**self._values, "model_type": family}, self.source)

    def names(self) -> frozenset[str]:
        """Keys that are present and not null."""
        return frozenset(name for name, value in self._values.items() if value is not None)


def _is_whole(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LARGEST and value % 1 == 0

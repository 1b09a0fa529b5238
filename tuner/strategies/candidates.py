"""Candidates: every valid configuration of a search space, as an array.

| symbol | meaning |
| --- | --- |
| `n` | number of candidates |
| `d` | number of parameters |
| row | shape (d,): per parameter the position of its value in the domain, -1 where it is inactive |
| levels | a row whose inactive parameters stand at their default; as unique as the row |
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tuner.parameter import Config, Parameter, Scale
from tuner.space import Space
from tuner.strategies.enumeration import INACTIVE, active, holds, valid_rows
from tuner.strategies.enumeration import Rows as Rows

Positions = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]

DEFAULT_LIMIT: Final = 3_000_000
"""Candidates that are enumerated at most (12 parameters: 72 MB); a larger space is sampled."""

_DESIGNS: Final = 256
"""Random designs among which the one with the most distant points starts a study."""
_POOL: Final = 1024
"""Random candidates that the designs are made of."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The valid configurations of a space.

    Attributes:
        space: their space.
        rows: shape (n, d), see above.
        complete: whether these are all; else a uniform sample with the default's neighbourhood, and
            `neighbours` may lead to valid rows outside of it.
    """

    space: Space
    rows: Rows
    complete: bool

    @classmethod
    def of(cls, space: Space, *, limit: int = DEFAULT_LIMIT, seed: int = 0) -> Candidates:
        """Enumerates the valid configurations of `space`, or draws about `limit` of them where there are more.

        Raises:
            SpaceError: no configuration is valid; it names the rules that rule out most.
        """
        rows, complete = valid_rows(space, limit, np.random.default_rng(seed))
        return cls(space, rows if complete else _with_default_neighbourhood(space, rows), complete)

    def __len__(self) -> int:
        return len(self.rows)

    def config(self, position: int) -> Config:
        """The configuration at `position`."""
        return config_of(self.space, self.rows[position])

    def position(self, config: Config) -> int | None:
        """Where `config` stands, or `None` when it is not among the candidates."""
        found = self.positions(row_of(self.space, config)[None])[0]
        return None if found < 0 else int(found)

    def positions(self, rows: Rows) -> Positions:
        """Where `rows`, shape (m, d), stand; -1 for those that are not among the candidates."""
        order, sorted_codes = self._by_code
        codes = row_codes(self.space, rows)
        firsts = np.minimum(np.searchsorted(sorted_codes, codes), len(order) - 1)
        same = (self.rows[order[firsts]] == rows).all(axis=1)
        found = np.where(same, order[firsts], -1)
        for number in np.flatnonzero(~same & (sorted_codes[firsts] == codes)):
            # Codes of a huge space may wrap around, so that equal codes are only probably the same row.
            first = firsts[number]
            while first < len(order) and sorted_codes[first] == codes[number]:
                if np.array_equal(self.rows[order[first]], rows[number]):
                    found[number] = order[first]
                    break
                first += 1
        return found

    @functools.cached_property
    def default_position(self) -> int:
        """The engine's default, or, where that is invalid, the candidate nearest to it.

        Nearest is the fewest changed parameters, then the smallest changes, then the first.
        """
        exact = self.position(self.space.default)
        if exact is not None:
            return exact
        target = row_of(self.space, self.space.default)[None]
        changed = (levels(self.space, self.rows) != levels(self.space, target)).sum(axis=1)
        nearest = np.flatnonzero(changed == changed.min())
        distance = np.abs(encode(self.space, self.rows[nearest]) - encode(self.space, target)).sum(axis=1)
        return int(nearest[int(np.argmin(distance))])

    def nearest(self, rows: Rows, allowed: npt.NDArray[np.bool_] | None = None) -> int:
        """The candidate nearest to one row of any kind, shape (1, d), valid or not.

        Args:
            rows: the row.
            allowed: shape (n,), candidates to choose from; all by default, at least one true.
        """
        choices = np.arange(len(self)) if allowed is None else np.flatnonzero(allowed)
        distance = np.abs(encode(self.space, self.rows[choices]) - encode(self.space, rows)).sum(axis=1)
        return int(choices[int(np.argmin(distance))])

    def neighbours(self, rows: Rows) -> Rows:
        """All valid rows one step away from any of `rows`, without `rows` themselves, shape (m, d).

        A step moves one parameter to an adjacent value (to any other value where it is categorical);
        parameters that become active start at their default.
        """
        return neighbours(self.space, rows)

    def space_filling(self, count: int, seed: int) -> Positions:
        """`count` candidates that are spread out, the engine's default (or nearest to it) first.

        Of many random designs, the one whose closest two points are farthest apart: unlike a greedy
        choice of the most distant point, it does not seek the corners of the space, where servers run
        out of memory.
        """
        count = min(count, len(self))
        generator = np.random.default_rng([seed, 1])
        first = self.default_position
        if count == 1:
            return np.array([first])
        pool = generator.choice(len(self), size=min(len(self), _POOL), replace=False)
        pool = np.concatenate([[first], pool[pool != first]])
        others = generator.random((_DESIGNS, len(pool) - 1)).argsort(axis=1)[:, : count - 1] + 1
        designs = np.concatenate([np.zeros((_DESIGNS, 1), dtype=np.int64), others], axis=1)
        points = encode(self.space, self.rows[pool])[designs]
        left, right = np.triu_indices(count, 1)
        closest = np.abs(points[:, left] - points[:, right]).sum(axis=-1).min(axis=1)
        best: Positions = pool[designs[int(np.argmax(closest))]]
        return best

    @functools.cached_property
    def _by_code(self) -> tuple[Positions, Positions]:
        """Positions in the order of their codes, and the codes in that order."""
        codes = row_codes(self.space, self.rows)
        order = np.argsort(codes)
        return order, codes[order]


def row_of(space: Space, config: Config) -> Rows:
    """A configuration as a row, shape (d,).

    Raises:
        SpaceError: a value is outside its parameter's domain.
    """
    return np.array(
        [
            parameter.index(config[parameter.name]) if parameter.name in config else INACTIVE
            for parameter in space.parameters
        ],
        dtype=np.int16,
    )


def config_of(space: Space, row: Rows) -> Config:
    """The configuration that a row, shape (d,), stands for; undoes `row_of`."""
    return Config(
        {
            parameter.name: parameter.values[level]
            for parameter, level in zip(space.parameters, row.tolist(), strict=True)
            if level != INACTIVE
        }
    )


def levels(space: Space, rows: Rows) -> Rows:
    """`rows` with inactive parameters at their default, shape (n, d): what surrogates are given."""
    return np.where(rows == INACTIVE, _defaults(space), rows)


def coordinates(parameter: Parameter) -> Matrix:
    """Where a numeric parameter's values lie in [0, 1] on its scale, shape (number of values,).

    On a log scale a zero stands as far below the smallest positive value as that does below the next.
    """
    numbers = np.array([float(value) for value in parameter.values])
    if parameter.scale is Scale.LOG:
        positive = numbers[numbers > 0]
        step = positive[1] / positive[0] if len(positive) > 1 else 2.0
        numbers = np.log(np.where(numbers > 0, numbers, (positive[0] if len(positive) else 1.0) / step))
    span = numbers[-1] - numbers[0]
    return np.zeros(len(numbers)) if span == 0 else (numbers - numbers[0]) / span


def encode(space: Space, rows: Rows) -> Matrix:
    """Rows as points of [0, 1]^p, inactive parameters at their default, shape (n, p).

    A numeric parameter is one column; a categorical one of three or more values is one-hot with halves,
    so that two values of it are one apart in the sum of absolute differences.
    """
    filled = levels(space, rows)
    columns: list[Matrix] = []
    for number, parameter in enumerate(space.parameters):
        if parameter.scale is not Scale.CATEGORICAL:
            columns.append(coordinates(parameter)[filled[:, number]][:, None])
        elif len(parameter.values) == 2:
            columns.append(filled[:, number, None].astype(np.float64))
        elif len(parameter.values) > 2:
            columns.append(0.5 * np.eye(len(parameter.values))[filled[:, number]])
    return np.concatenate(columns, axis=1) if columns else np.zeros((len(rows), 1))


def neighbours(space: Space, rows: Rows) -> Rows:
    """See `Candidates.neighbours`."""
    moved = np.concatenate([levels(space, rows)[:0], *_moves(space, rows)])
    for number, parameter in enumerate(space.parameters):
        # Conditions are on parameters before it, whose own conditions have been looked at by now.
        moved[~active(space, parameter, moved, range(len(space.parameters))), number] = INACTIVE
    both = np.concatenate([rows, moved]).astype(np.int16)
    first = np.sort(np.unique(both, axis=0, return_index=True)[1])
    found = both[first[first >= len(rows)]]
    for rule in space.rules:
        found = found[holds(space, rule, found, range(len(space.parameters)))]
    return found


def _moves(space: Space, rows: Rows) -> list[Rows]:
    """Per row, its levels with one active parameter moved: to an adjacent value, to any other if categorical."""
    found = []
    for row, filled in zip(rows, levels(space, rows), strict=True):
        steps = [
            (number, level)
            for number, parameter in enumerate(space.parameters)
            if row[number] != INACTIVE
            for level in _steps(parameter, int(row[number]))
        ]
        moved = np.repeat(filled[None], len(steps), axis=0)
        if steps:
            columns, values = zip(*steps, strict=True)
            moved[np.arange(len(steps)), columns] = values
        found.append(moved)
    return found


def _steps(parameter: Parameter, level: int) -> Sequence[int]:
    if parameter.scale is Scale.CATEGORICAL:
        return [other for other in range(len(parameter.values)) if other != level]
    return [other for other in (level - 1, level + 1) if 0 <= other < len(parameter.values)]


def _defaults(space: Space) -> Rows:
    return np.array([parameter.index(parameter.default) for parameter in space.parameters], dtype=np.int16)


def row_codes(space: Space, rows: Rows) -> Positions:
    """One number per row; equal rows have equal codes, and different ones too below 2^63 combinations."""
    codes = np.zeros(len(rows), dtype=np.int64)
    with np.errstate(over="ignore"):
        for number, parameter in enumerate(space.parameters):
            codes *= len(parameter.values) + 1
            codes += rows[:, number] + 1
    return codes


def _with_default_neighbourhood(space: Space, rows: Rows) -> Rows:
    """A sample, and the engine's default with all that is one step from it."""
    default = row_of(space, space.default)[None]
    near = neighbours(space, default)
    if not space.violations(space.default):
        near = np.concatenate([default, near])
    known = {row.tobytes() for row in rows[np.isin(row_codes(space, rows), row_codes(space, near))]}
    fresh = np.array([row for row in near if row.tobytes() not in known], dtype=np.int16)
    return np.concatenate([rows, fresh.reshape(-1, rows.shape[1])])

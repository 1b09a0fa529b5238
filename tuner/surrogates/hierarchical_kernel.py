"""Covariances over listed configurations, for Gaussian processes shared by many tasks.

Every parameter has few values, so a covariance is a table per parameter, looked up by code.

| symbol | shape | meaning |
| --- | --- | --- |
| n, p, v | | configurations, parameters, values of one parameter |
| codes | (n, p) | position of every value in its parameter's domain |
| distances | p x (v, v) | distances between the values of each parameter |
| theta | | log of p lengths (product), p lengths (sum), a, a_p, with latents b and L lengths; ties; log s_p |
| z | (n, L) | latent coordinates, z(x) = sum_p E_p[x_p] with a learned embedding E |
| u | (n, p) | octaves of the numbers, centred, in threes; 0 for words |

    k(x, x') = a^2 prod_p c_p(x, x')  +  sum_p a_p^2 c'_p(x, x')  +  b^2 m(|(z - z') / l''|)  +  (1 + t/2)^2 - 1,
    t = sum_p s_p^2 u_p(x) u_p(x')

with m the Matern 5/2 correlation. The product lets everything interact; the sum carries what one parameter does
alone, far from any data (Duvenaud et al. 2011). The trend t is what goes on beyond all data: a metric in logarithms
that is a power of batch, devices or clients, with a curvature (a polynomial kernel of degree two, Rasmussen & Williams
2006, section 4.2.2; a response surface of second order, Box & Wilson 1951). How values are alike, c_p and c'_p, is
seen in one of two ways:

* `View.PLACED`: m(d_p / l_p), words being at distances from one another, too; and there are latent coordinates, sums
  over the parameters' values, most of them in octaves: total memory or compute is a product of count, size and kind, so
  that configurations which look different and have the same of it are alike.
* `View.TIED`: the same for numbers, and t_v t_w for different words, with learned ties t in (-1, 1), so that a word may
  be like one and unlike another, or its opposite (an index kernel of rank one, Bonilla et al. 2008); no latent ones.

The first fits recorded tasks better, the second claims less of words that few tasks know (docs/measurements.md).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tuner.parameter import Scale, Value

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


LATENTS = 2
"""Latent coordinates of a configuration; a second one lets memory and compute differ."""
_TINY = 1e-12
"""Keeps the gradient of a distance finite where it is zero."""

_Numbers = TypeVar("_Numbers", FloatArray, torch.Tensor)


class View(enum.Enum):
    """How the values of a parameter are taken to be alike; see the module."""

    PLACED = "placed"
    TIED = "tied"


@dataclass(frozen=True, slots=True)
class ThetaParts(Generic[_Numbers]):
    """The hyperparameters of one covariance, by what they are.

    Attributes:
        long, short: logarithms of the lengths in the product and in the sum, shape (p,).
        product: logarithm of a, shape (1,).
        alone: of the a_p, shape (p,).
        latent: of b, shape (1,), empty without latent coordinates.
        latent_lengths: shape (L,).
        ties: for every parameter those in the product and those in the sum before tanh, empty where it has none.
        slopes: of the s_p, shape (p,), those of words without effect.
    """

    long: _Numbers
    short: _Numbers
    product: _Numbers
    alone: _Numbers
    latent: _Numbers
    latent_lengths: _Numbers
    ties: tuple[tuple[_Numbers, _Numbers], ...]
    slopes: _Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class ThetaLayout:
    """Where each hyperparameter stands.

    Attributes:
        latents: number of latent coordinates.
        places: coordinates of all bases, of which the latent ones are sums.
        tied: for every parameter, how many words of it are tied.
    """

    latents: int
    places: int
    tied: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of hyperparameters of one covariance."""
        return 4 * len(self.tied) + 1 + (1 + self.latents if self.latents else 0) + 2 * sum(self.tied)

    @property
    def embedding_shape(self) -> tuple[int, int]:
        """Of the latent coordinates' embedding, which all covariances share."""
        return self.latents, self.places

    def parts(self, theta: _Numbers) -> ThetaParts[_Numbers]:
        """Theta, shape (size,), taken apart: the parts are views of it."""
        count = len(self.tied)
        latent = 3 * count + 1
        lengths = latent + (1 if self.latents else 0)
        start = lengths + self.latents
        ties = []
        for words in self.tied:
            ties.append((theta[start : start + words], theta[start + words : start + 2 * words]))
            start += 2 * words
        return ThetaParts(
            long=theta[:count],
            short=theta[count : 2 * count],
            product=theta[2 * count : 2 * count + 1],
            alone=theta[2 * count + 1 : latent],
            latent=theta[latent:lengths],
            latent_lengths=theta[lengths : lengths + self.latents],
            ties=tuple(ties),
            slopes=theta[start:],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GridEncoding:
    """Codes and distances of the values that occur in a set of configurations.

    Attributes:
        values: the domain of every parameter.
        distances: for every parameter, shape (v, v); ordinal domains span 1, different words are 1 apart
            (more, up to 2, where their descriptors differ), or 0 where they are tied.
        octaves: for every parameter u of its values, shape (v,).
        bases: for every parameter, what of its values the latent coordinates are sums of, shape (v, coordinates).
        layout: of the hyperparameters.
    """

    values: tuple[tuple[Value, ...], ...]
    distances: tuple[FloatArray, ...]
    octaves: tuple[FloatArray, ...]
    bases: tuple[FloatArray, ...]
    layout: ThetaLayout

    @classmethod
    def of(
        cls,
        scales: Sequence[Scale],
        rows: Sequence[Sequence[Value]],
        descriptors: Sequence[Mapping[Value, tuple[float, ...]]],
        further: Sequence[Sequence[Value]] = (),
        view: View = View.PLACED,
    ) -> GridEncoding:
        """The encoding of all values in `rows` and `further`.

        Args:
            scales: of the parameters.
            rows: configurations; they span the scales.
            descriptors: one mapping per parameter, empty or not.
            further: values of each parameter that may occur, whether or not a row has them; or none.
            view: how values are taken to be alike; codes are the same in each.
        """
        placed = view is View.PLACED
        domains, distances, octaves, bases, tied = [], [], [], [], []
        for column, scale in enumerate(scales):
            found = list(dict.fromkeys([*(row[column] for row in rows), *(further[column] if further else ())]))
            if scale is Scale.CATEGORICAL:
                domains.append(tuple(found))
                apart = _word_distances(found, descriptors[column]) if placed else np.zeros((len(found), len(found)))
                distances.append(apart)
                octaves.append(np.zeros(len(found)))
                bases.append(np.eye(len(found)))
                tied.append(0 if placed else len(found))
                continue
            tied.append(0)
            ordered = sorted(found, key=float)
            numbers = np.array([float(value) for value in ordered])
            logarithms = np.log2(numbers if numbers[0] > 0 else numbers - numbers[0] + 1.0)
            octaves.append((logarithms - logarithms.mean()) / 3.0)
            bases.append(octaves[-1][:, None])
            places = logarithms if scale is Scale.LOG else numbers
            low, high = places.min(), places.max()
            places = (places - low) / max(high - low, 1e-12)
            domains.append(tuple(ordered))
            distances.append(np.abs(places[:, None] - places[None, :]))
        return cls(
            values=tuple(domains),
            distances=tuple(distances),
            octaves=tuple(octaves),
            bases=tuple(bases),
            layout=ThetaLayout(
                latents=LATENTS if placed else 0, places=sum(basis.shape[1] for basis in bases), tied=tuple(tied)
            ),
        )

    def codes(self, rows: Sequence[Sequence[Value]]) -> IntArray:
        """Positions of the values of `rows`, shape (n, p)."""
        found = np.empty((len(rows), len(self.values)), dtype=np.int64)
        for at, (domain, column) in enumerate(zip(self.values, zip(*rows, strict=True), strict=bool(len(rows)))):
            code = {value: place for place, value in enumerate(domain)}
            found[:, at] = [code[value] for value in column]
        return found


def _word_distances(words: Sequence[Value], descriptors: Mapping[Value, tuple[float, ...]]) -> FloatArray:
    """1 between different words; with descriptors, 0.3 to 2 by how much these differ."""
    different = 1.0 - np.eye(len(words))
    if len(words) < 2 or not all(word in descriptors for word in words):
        return different
    table = np.array([descriptors[word] for word in words], dtype=float)
    table = np.where((table > 0).all(axis=0), np.log(np.maximum(table, 1e-12)), table)
    spread = table.std(axis=0)
    table = (table[:, spread > 0] - table[:, spread > 0].mean(axis=0)) / spread[spread > 0]
    if not table.shape[1]:
        return different
    gaps = np.sqrt(((table[:, None, :] - table[None, :, :]) ** 2).mean(axis=2))
    return np.asarray(different * np.clip(gaps / max(gaps.sum() / different.sum(), 1e-12), 0.3, 2.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTables:
    """An encoding as tensors, ready for `covariance`."""

    distances: tuple[torch.Tensor, ...]
    octaves: tuple[torch.Tensor, ...]
    bases: tuple[torch.Tensor, ...]
    layout: ThetaLayout

    @classmethod
    def of(cls, encoding: GridEncoding) -> KernelTables:
        """The tensors of an encoding."""
        return cls(
            distances=tuple(torch.from_numpy(table) for table in encoding.distances),
            octaves=tuple(torch.from_numpy(places) for places in encoding.octaves),
            bases=tuple(torch.from_numpy(basis) for basis in encoding.bases),
            layout=encoding.layout,
        )


def covariance(
    theta: torch.Tensor, embedding: torch.Tensor, tables: KernelTables, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """The covariance above between two lists of codes, shapes (n, p) and (m, p) -> (n, m)."""
    parts = tables.layout.parts(theta)
    product: torch.Tensor | None = None
    total, trend = (torch.zeros((len(left), len(right)), dtype=theta.dtype) for _ in range(2))
    for at, table in enumerate(tables.distances):
        if len(table) < 2:
            continue
        rows, columns = left[:, at], right[:, at]
        in_product, in_sum = parts.ties[at]
        factor = _looked_up(_tied(matern(table / parts.long[at].exp()), in_product), rows, columns)
        product = factor if product is None else product * factor
        alone = (2.0 * parts.alone[at]).exp() * _tied(matern(table / parts.short[at].exp()), in_sum)
        total = total + _looked_up(alone, rows, columns)
        if tables.octaves[at].any():
            steep = parts.slopes[at].exp() * tables.octaves[at]
            trend = trend + _looked_up(torch.outer(steep, steep), rows, columns)
    total = total + trend + 0.25 * trend.square()
    if product is not None:
        total = total + (2.0 * parts.product).exp() * product
    if not tables.layout.latents:
        return total
    lengths = parts.latent_lengths.exp()
    left_places = _latent_places(embedding, tables, left) / lengths
    right_places = _latent_places(embedding, tables, right) / lengths
    gaps = (left_places[:, None, :] - right_places[None, :, :]).square().sum(dim=2)
    latent: torch.Tensor = (2.0 * parts.latent).exp() * matern((gaps + _TINY).sqrt())
    return total + latent


def _tied(correlations: torch.Tensor, ties: torch.Tensor) -> torch.Tensor:
    """Correlations of different words times their ties, if there are any."""
    if not len(ties):
        return correlations
    bonds = ties.tanh()
    return correlations * (bonds[:, None] * bonds[None, :] + torch.diag(1.0 - bonds.square()))


def _looked_up(table: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """`table[rows[:, None], columns[None, :]]`, by copying whole rows: several times faster."""
    return table.index_select(1, columns).index_select(0, rows)


def _latent_places(embedding: torch.Tensor, tables: KernelTables, codes: torch.Tensor) -> torch.Tensor:
    """Latent coordinates of configurations, shape (n, L): the sum of the places of their values."""
    places = torch.zeros((len(codes), len(embedding)), dtype=embedding.dtype)
    start = 0
    for at, basis in enumerate(tables.bases):
        table = basis @ embedding[:, start : start + basis.shape[1]].T
        places = places + table[codes[:, at]]
        start += basis.shape[1]
    return places


def matern(ratio: torch.Tensor) -> torch.Tensor:
    """Matern 5/2 correlation at distances in units of the length scale (Rasmussen & Williams, Eq. 4.17)."""
    scaled = 5.0**0.5 * ratio
    correlation: torch.Tensor = (1.0 + scaled + scaled.square() / 3.0) * (-scaled).exp()
    return correlation

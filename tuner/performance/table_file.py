"""Operator table files: Parquet with 16-bit latency codes and their provenance."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tuner.errors import UsageError
from tuner.performance.grid import Array
from tuner.whole_file import replacement

PROFILED: Final = "operators"
"""Folder in that of a profile, with one folder of tables per device, called after what the driver calls it."""
PREFILL: Final = "context_attention"
DECODE: Final = "generation_attention"
ENCODER: Final = "encoder_attention"
"""Tables of attention: over prompts, for one new token each, and over sequences that are seen whole."""
MIXED: Final = "mixed_attention"
"""What attention for one new token each adds to a step that also computes a prompt."""
UNEQUAL: Final = "unequal_attention"
"""Attention for one new token each, of many batches together, by whether contexts are equal."""
CONVOLUTION: Final = "convolution"
ALL_REDUCE: Final = "custom_allreduce"
NCCL: Final = "nccl"
FORMAT: Final = "serving-tuner operator table 1"
CODE_SCALE: Final = 3000.0
CODE_OFFSET: Final = 9.0
_MOST_CODES: Final = 2**62


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows of a table: keys by name, latencies in seconds.

    Attributes:
        values: whole numbers; text columns as places in `words`.
        latency_s: seconds.
        words: the texts of each text column.
        provenance: what the file says of its origin.
    """

    values: Mapping[str, NDArray[np.int64]]
    latency_s: Array
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def where(self, **wanted: int | str) -> Columns:
        """The rows in which every named column has the value wanted."""
        keep = np.ones(self.latency_s.shape, dtype=bool)
        for name, value in wanted.items():
            if isinstance(value, str):
                value = self.words[name].index(value) if value in self.words[name] else -1
            keep &= self.values[name] == value
        values = {name: column[keep] for name, column in self.values.items()}
        return Columns(values, self.latency_s[keep], self.words, self.provenance)

    def joined(self, other: Columns) -> Columns:
        """These rows and those of another file of the same operator."""
        words: dict[str, tuple[str, ...]] = {}
        values: dict[str, NDArray[np.int64]] = {}
        for name, column in self.values.items():
            added = other.values[name]
            if name in self.words:
                words[name] = tuple(dict.fromkeys((*self.words[name], *other.words[name])))
                places = np.array([words[name].index(word) for word in other.words[name]], dtype=np.int64)
                added = places[added]
            values[name] = np.concatenate([column, added])
        return Columns(values, np.concatenate([self.latency_s, other.latency_s]), words, other.provenance)

    def distinct(self, *names: str) -> list[tuple[int, ...]]:
        """Combinations of integer columns that occur, ascending."""
        columns = [self.values[name] for name in names]
        if not columns[0].size:
            return []
        least = [int(column.min()) for column in columns]
        sizes = [int(column.max()) - low + 1 for column, low in zip(columns, least, strict=True)]
        if math.prod(sizes) > _MOST_CODES:
            return [tuple(row) for row in np.unique(np.stack(columns, axis=1), axis=0).tolist()]
        # One number per combination: sorting these takes a tenth of the time that sorting rows does.
        codes = np.ravel_multi_index([column - low for column, low in zip(columns, least, strict=True)], sizes)
        places = np.unravel_index(np.unique(codes), sizes)
        return list(zip(*((place + low).tolist() for place, low in zip(places, least, strict=True)), strict=True))


@functools.lru_cache(maxsize=64)
def read_table(path: Path) -> Columns:
    """A table file.

    Raises:
        UsageError: it is damaged, or of a version that this program does not read.
    """
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"The operator table {path} is damaged: {error}. Restore or rebuild it.") from error
    stated = (table.schema.metadata or {}).get(b"serving_tuner")
    try:
        provenance = json.loads(stated) if stated else {}
    except ValueError as error:
        raise UsageError(f"The operator table {path} is damaged: {error}. Restore or rebuild it.") from error
    if provenance.get("format") != FORMAT or "latency_code" not in table.column_names:
        raise UsageError(
            f"The operator table {path} states the format {provenance.get('format')!r}; this program reads {FORMAT!r}. "
            "Rebuild it with this version."
        )
    values: dict[str, NDArray[np.int64]] = {}
    words: dict[str, tuple[str, ...]] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
            encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
            words[name] = tuple(encoded.dictionary.to_pylist())
            column = encoded.indices
        values[name] = column.to_numpy(zero_copy_only=False).astype(np.int64)
    codes = values.pop("latency_code").astype(np.float64)
    return Columns(values, np.exp(codes / CODE_SCALE - CODE_OFFSET) * 1e-3, words, provenance)


def write_table(
    path: Path, keys: Mapping[str, Sequence[int] | Sequence[str]], latency_s: Sequence[float], origin: Mapping[str, str]
) -> None:
    """Writes a table file, whole or not at all.

    Args:
        keys: columns of whole numbers or texts, by name, one entry per row.
        latency_s: of each row, s.
        origin: provenance: device, software, source and date.
    """
    columns: dict[str, pa.Array] = {}
    for name, values in keys.items():
        is_text = len(values) > 0 and isinstance(values[0], str)
        columns[name] = pa.array(values).dictionary_encode() if is_text else pa.array(values, pa.int32())
    codes = np.round((np.log(np.asarray(latency_s, dtype=np.float64) * 1e3) + CODE_OFFSET) * CODE_SCALE)
    columns["latency_code"] = pa.array(np.clip(codes, 0, 65535).astype(np.uint16))
    stated = {
        "format": FORMAT,
        **origin,
        "latency": f"latency_ms = exp(latency_code / {CODE_SCALE:g} - {CODE_OFFSET:g})",
    }
    table = pa.table(columns).replace_schema_metadata({"serving_tuner": json.dumps(stated)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path) as partial:
        pq.write_table(
            table, partial, compression="zstd", compression_level=19, use_dictionary=list(keys), column_encoding=None
        )

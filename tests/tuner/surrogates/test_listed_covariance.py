from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuner.parameter import Scale
from tuner.surrogates.hierarchical_kernel import GridEncoding, KernelTables, View, covariance
from tuner.surrogates.listed_covariance import ListedCovariance


@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from(list(Scale))), min_size=1, max_size=4),
    st.integers(1, 9),
    st.integers(0, 2**20),
    st.sampled_from(View),
)
def test_the_compiled_covariance_is_that_with_gradients(
    parameters: list[tuple[int, Scale]], count: int, seed: int, view: View
) -> None:
    generator = np.random.default_rng(seed)
    rows = [tuple(int(generator.integers(1, values + 1)) for values, _ in parameters) for _ in range(count + 3)]
    encoding = GridEncoding.of([scale for _, scale in parameters], rows, [{}] * len(parameters), view=view)
    tables, codes = KernelTables.of(encoding), encoding.codes(rows)
    theta = generator.normal(size=tables.layout.size)
    embedding = generator.normal(size=tables.layout.embedding_shape)
    for left, right in ((codes[:count], codes[count:]), (codes, codes)):
        arguments = (torch.from_numpy(array) for array in (theta, embedding))
        expected = covariance(*arguments, tables, torch.from_numpy(left), torch.from_numpy(right)).numpy()
        found = ListedCovariance(theta, embedding, encoding)
        assert found.between(left, right) == pytest.approx(expected)
        assert found.variances(left) == pytest.approx(np.diag(found.between(left, left)))

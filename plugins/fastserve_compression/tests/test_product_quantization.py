"""Product quantization by itself: shapes, errors, equal runs, and the search among codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve_compression.product_quantization import decode, encode, find_nearest_rows, fit_codebooks


def vectors(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 60), st.integers(1, 4), st.integers(1, 4), st.integers(2, 4), st.integers(0, 99), st.booleans())
def test_codes_are_never_worse_than_one_centroid(
    rows: int, parts: int, width: int, centroids: int, seed: int, rounded: bool
) -> None:
    given_rows = vectors(rows, parts * width, seed)
    if rounded:
        given_rows = given_rows.round()  # many equal parts
    books, codes = fit_codebooks(given_rows, width, centroids, seed=seed)
    assert books.shape == (parts, centroids, width)
    assert books.dtype == np.float32
    assert codes.shape == (rows, parts)
    assert codes.dtype == np.uint8
    decoded = decode(codes, books)
    assert decoded.shape == given_rows.shape
    error, of_one = np.square(given_rows - decoded).sum(), np.square(given_rows - given_rows.mean(axis=0)).sum()
    assert error <= of_one * (1 + 1e-4) + 1e-4
    again = np.square(given_rows - decode(encode(given_rows, books), books)).sum()
    assert again <= error * (1 + 1e-4) + 1e-4


def test_equal_runs_give_equal_codes_with_any_number_of_workers() -> None:
    rows = vectors(300, 12)
    first, second = fit_codebooks(rows, 4, 16, seed=3, workers=1), fit_codebooks(rows, 4, 16, seed=3, workers=3)
    assert all(np.array_equal(one, two) for one, two in zip(first, second, strict=True))
    assert not np.array_equal(first[0], fit_codebooks(rows, 4, 16, seed=4)[0])


def test_rows_that_weigh_more_are_kept_more_exactly() -> None:
    rows, weights = vectors(400, 8), np.ones(400)
    weights[:40] = 1000
    errors = []
    for one in (None, weights):
        books, codes = fit_codebooks(rows, 4, 16, one)
        errors.append(np.square(rows - decode(codes, books))[:40].sum())
    assert errors[1] < 0.7 * errors[0]


def test_the_search_equals_one_over_decoded_rows() -> None:
    rows, queries = vectors(500, 16), vectors(7, 16, seed=1)
    books, codes = fit_codebooks(rows, 4, 32)
    places, distances = find_nearest_rows(queries, codes, books, 5)
    exact = np.square(queries[:, None] - decode(codes, books)[None]).sum(-1)
    assert places.shape == distances.shape == (7, 5)
    assert np.array_equal(places, np.argsort(exact, axis=1, kind="stable")[:, :5])
    assert distances == pytest.approx(np.sort(exact, axis=1)[:, :5], rel=1e-4)

"""Product quantization (Jégou et al. 2011): each subspace of a vector is coded as its nearest centroid."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

MAX_ITERATIONS = 20
"""Iterations of Lloyd's algorithm; more change the error by less than 1 %."""
CHUNK_ROWS = 512


def fit_codebooks(
    vectors: Floats,
    width: int,
    centroids: int,
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
    workers: int = 1,
    report: Callable[[int], None] = lambda _: None,
) -> tuple[Floats, Codes]:
    """Fit codebooks with k-means and return them with the codes of the vectors.

    Args:
        vectors: Array of shape (rows, subspaces x width), with at least as many rows as centroids.
        width: Number of columns of a subspace.
        centroids: Number of centroids of each subspace, at most 256.
        weights: Weight of each row, of shape (rows,); None weights them equally.
        seed: Seed of the initial centroids.
        workers: Number of subspaces to fit at a time.
        report: Called with the index of each finished subspace.

    Returns:
        Codebooks of shape (subspaces, centroids, width), and codes of shape (rows, subspaces).
    """
    parts = vectors.shape[1] // width

    def solve(part: int) -> tuple[Any, Any]:
        found = _cluster(vectors[:, part * width : (part + 1) * width], centroids, weights, (seed, part))
        report(part)
        return found

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Number of distinct clusters")  # equal rows share a centroid
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(solve, range(parts)))
    return np.stack([books for books, _ in found]).astype(np.float32), np.stack([codes for _, codes in found], axis=1)


def _cluster(
    points: Floats, centroids: int, weights: NDArray[np.float64] | None, seed: tuple[int, int]
) -> tuple[Floats, Codes]:
    from sklearn.cluster import KMeans

    points = np.ascontiguousarray(points)
    probabilities = None if weights is None else weights / weights.sum()
    drawn = np.random.default_rng(seed).choice(len(points), centroids, replace=False, p=probabilities)
    found = KMeans(centroids, init=points[drawn], n_init=1, max_iter=MAX_ITERATIONS).fit(points, sample_weight=weights)
    return found.cluster_centers_, found.labels_.astype(np.uint8)


def encode(vectors: Floats, codebooks: Floats) -> Codes:
    """Return the codes (rows, subspaces) of vectors: the nearest centroid in each subspace.

    Args:
        vectors: Array of shape (rows, subspaces x width).
        codebooks: Array of shape (subspaces, centroids, width).
    """
    parts, _, width = codebooks.shape
    codes = np.empty((len(vectors), parts), dtype=np.uint8)
    for start in range(0, len(vectors), CHUNK_ROWS):
        chunk = vectors[start : start + CHUNK_ROWS].reshape(-1, parts, width)
        codes[start : start + CHUNK_ROWS] = _squared_distances(chunk, codebooks).argmin(axis=-1).T
    return codes


def decode(codes: Codes, codebooks: Floats) -> Floats:
    """Return the vectors (rows, subspaces x width) that the codes stand for.

    Args:
        codes: Array of shape (rows, subspaces).
        codebooks: Array of shape (subspaces, centroids, width).
    """
    decoded: Floats = codebooks[np.arange(len(codebooks)), codes].reshape(len(codes), -1)
    return decoded


def find_nearest_rows(queries: Floats, codes: Codes, codebooks: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the indices of the nearest coded rows to each query, nearest first, and their squared distances.

    The distance is asymmetric: the query is exact, and each row costs one table look-up per subspace.

    Args:
        queries: Array of shape (queries, subspaces x width).
        codes: Array of shape (rows, subspaces).
        codebooks: Array of shape (subspaces, centroids, width).
        count: Number of rows to return for each query.

    Returns:
        Indices and squared distances, both of shape (queries, count).
    """
    parts, _, width = codebooks.shape
    tables = _squared_distances(queries.reshape(-1, parts, width), codebooks)
    distances = np.zeros((len(queries), len(codes)), dtype=np.float32)
    for part, table in enumerate(tables):
        distances += table[:, codes[:, part]]
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(distances, order, axis=1)


def _squared_distances(vectors: Floats, codebooks: Floats) -> Floats:
    """Return squared distances (subspaces, rows, centroids) of vectors (rows, subspaces, width) to the centroids."""
    by_part = vectors.transpose(1, 0, 2)
    products = by_part @ codebooks.transpose(0, 2, 1)
    lengths = np.square(by_part).sum(-1)[:, :, None] + np.square(codebooks).sum(-1)[:, None, :]
    distances: Floats = np.maximum(lengths - 2 * products, 0)
    return distances

"""Product quantization (Jégou et al. 2011): vectors cut into parts, each part the nearest of some centroids."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

ROUNDS = 20
"""Lloyd's steps; further ones change the error by less than a hundredth."""
CHUNK = 512


def fit_codebooks(
    vectors: Floats,
    width: int,
    centroids: int,
    weights: NDArray[np.float64] | None = None,
    seed: int = 0,
    workers: int = 1,
    tell: Callable[[int], None] = lambda _: None,
) -> tuple[Floats, Codes]:
    """Codebooks of shape (parts, centroids, width) and the codes (rows, parts) of the vectors (rows, parts x width).

    Rows count by their weights. There are at least as many rows as centroids, and at most 256 centroids.
    """
    parts = vectors.shape[1] // width

    def solve(part: int) -> tuple[Any, Any]:
        found = _cluster(vectors[:, part * width : (part + 1) * width], centroids, weights, (seed, part))
        tell(part)
        return found

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Number of distinct clusters")  # equal rows share a centroid
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(solve, range(parts)))
    return np.stack([one for one, _ in found]).astype(np.float32), np.stack([one for _, one in found], axis=1)


def _cluster(
    points: Floats, centroids: int, weights: NDArray[np.float64] | None, seed: tuple[int, int]
) -> tuple[Floats, Codes]:
    from sklearn.cluster import KMeans

    points = np.ascontiguousarray(points)
    chances = None if weights is None else weights / weights.sum()
    drawn = np.random.default_rng(seed).choice(len(points), centroids, replace=False, p=chances)
    found = KMeans(centroids, init=points[drawn], n_init=1, max_iter=ROUNDS).fit(points, sample_weight=weights)
    return found.cluster_centers_, found.labels_.astype(np.uint8)


def encode(vectors: Floats, codebooks: Floats) -> Codes:
    """The codes (rows, parts) of other vectors: the nearest centroid of each part."""
    parts, _, width = codebooks.shape
    codes = np.empty((len(vectors), parts), dtype=np.uint8)
    for start in range(0, len(vectors), CHUNK):
        chunk = vectors[start : start + CHUNK].reshape(-1, parts, width)
        codes[start : start + CHUNK] = _distances(chunk, codebooks).argmin(axis=-1).T
    return codes


def decode(codes: Codes, codebooks: Floats) -> Floats:
    """The vectors (rows, parts x width) that codes stand for."""
    decoded: Floats = codebooks[np.arange(len(codebooks)), codes].reshape(len(codes), -1)
    return decoded


def nearest_centroids(queries: Floats, codes: Codes, codebooks: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    """The nearest coded rows to each query, nearest first, and their squared distances; both (queries, count).

    The distance is the asymmetric one: the query is exact, and each row costs a look-up a part.
    """
    parts, _, width = codebooks.shape
    tables = _distances(queries.reshape(-1, parts, width), codebooks)
    distances = np.zeros((len(queries), len(codes)), dtype=np.float32)
    for part, table in enumerate(tables):
        distances += table[:, codes[:, part]]
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(distances, order, axis=1)


def _distances(vectors: Floats, codebooks: Floats) -> Floats:
    """Squared distances (parts, rows, centroids) of vectors (rows, parts, width) to each part's centroids."""
    by_part = vectors.transpose(1, 0, 2)
    products = by_part @ codebooks.transpose(0, 2, 1)
    lengths = np.square(by_part).sum(-1)[:, :, None] + np.square(codebooks).sum(-1)[:, None, :]
    distances: Floats = np.maximum(lengths - 2 * products, 0)
    return distances

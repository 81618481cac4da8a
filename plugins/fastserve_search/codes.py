"""Vectors in fewer bytes: faiss finds candidates with them, which the exact vectors then put in order.

Product quantization with 16 centroids for each 4 elements (Jégou et al. 2011, scanned in registers as by André et al.
2017) codes 384 elements in 48 bytes, a 32nd of 32-bit floats. A learnt rotation before it (OPQ) does not pay: on 19,500
vectors of MiniLM it brought the recall of 10 hits from .9994 to .9998, for 9 times the training and 0.6 MB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.errors import ArtifactError, MissingPackageError, OptionError, wrap_write_errors

if TYPE_CHECKING:
    from fastserve_search.store import RowNumbers, Vectors

EXACT, PQ, HNSW = "exact", "pq", "hnsw"
KINDS = (EXACT, PQ, HNSW)
MIN_CODED = 10_000
"""Fewer vectors are compared exactly by default: it takes a millisecond, and codes would save little memory."""
MIN_TRAINING = 1_000
"""The number of vectors without which centroids mean nothing."""
MAX_TRAINING = 50_000
ELEMENTS_A_CODE, BITS_A_CODE = 4, 4
HNSW_LINKS = 32
HNSW_BREADTH = 128
CHUNK = 16_384


def choose_kind(kind: str | None, vectors: int) -> str:
    """Return the kind of codes for a number of vectors; the chosen one if it can be made.

    Raises:
        OptionError: The kind is unknown, or needs more vectors.
    """
    if kind is None:
        return EXACT if vectors < MIN_CODED else PQ
    if kind not in KINDS:
        raise OptionError(f"an index is of the kind {', '.join(KINDS)}, not {kind}")
    if kind == PQ and vectors < MIN_TRAINING:
        raise OptionError(f"product quantization needs at least {MIN_TRAINING} passages, not {vectors}: use {EXACT}")
    return kind


def code_size(width: int) -> int:
    """Return the bytes of the product-quantized code of a vector of that length."""
    return width // ELEMENTS_A_CODE * BITS_A_CODE // 8


@dataclass
class Codes:
    """A faiss index of rows, whose scores are inner products."""

    kind: str
    index: Any

    @classmethod
    def train(cls, kind: str, vectors: Vectors, seed: int = 0) -> Codes:
        """Learn codes from vectors, without adding them.

        Raises:
            OptionError: The vectors' width cannot be coded.
        """
        import numpy as np

        faiss = import_faiss()
        width = vectors.shape[1]
        parts, rest = divmod(width, ELEMENTS_A_CODE)
        if kind != HNSW and rest:
            raise OptionError(f"product quantization needs vectors of a multiple of {ELEMENTS_A_CODE}, not of {width}")
        factory = {PQ: f"PQ{parts}x{BITS_A_CODE}fs", HNSW: f"HNSW{HNSW_LINKS},Flat"}[kind]
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            chosen = np.random.default_rng(seed).permutation(len(vectors))[:MAX_TRAINING]
            index.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
        return cls(kind, index)._tuned()

    @classmethod
    def load(cls, kind: str, path: Path, digest: str) -> Codes:
        """Read codes from a file.

        Raises:
            ArtifactError: The file is missing, or is not the one that was written.
        """
        import numpy as np

        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            fault = "changed since it was written" if data else "is missing"
            raise ArtifactError(f"{path} {fault}: 'fastserve index INDEX --recode' makes it again from the vectors")
        index = import_faiss().deserialize_index(np.frombuffer(data, np.uint8))
        return cls(kind, index)._tuned()

    def _tuned(self) -> Codes:
        if self.kind == HNSW:
            self.index.hnsw.efSearch = HNSW_BREADTH
        return self

    @property
    def num_rows(self) -> int:
        """The number of vectors."""
        return int(self.index.ntotal)

    def add(self, vectors: Vectors) -> None:
        """Add vectors, whose rows follow the last one."""
        import numpy as np

        for start in range(0, len(vectors), CHUNK):
            self.index.add(np.ascontiguousarray(vectors[start : start + CHUNK], np.float32))

    def search(self, queries: Vectors, count: int) -> list[RowNumbers]:
        """Return for each query the rows of the vectors that are probably nearest, at most so many."""
        _, rows = self.index.search(queries, min(count, self.num_rows))
        return [found[found >= 0] for found in rows]

    def serialize(self) -> bytes:
        """Return the bytes of a file; their number is that of the codes in memory."""
        return bytes(import_faiss().serialize_index(self.index).tobytes())

    def save(self, folder: Path) -> tuple[str, str]:
        """Write a file of a name of its own; return the name and the hash."""
        data = self.serialize()
        digest = hashlib.sha256(data).hexdigest()
        name = f"codes-{digest[:16]}.faiss"
        partial = folder / f".{name}"
        with wrap_write_errors(name, folder):
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(folder / name)
        return name, digest


def import_faiss() -> Any:
    """Return the module faiss.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError("search needs faiss: pip install 'fastserve-core[search]'") from error
    return faiss


def remove_other_codes(folder: Path, names: Sequence[str]) -> None:
    """Remove the files of codes that the index does not use any more."""
    for path in folder.glob("*codes-*.faiss"):
        if path.name not in names:
            path.unlink(missing_ok=True)

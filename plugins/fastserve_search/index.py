"""An index of passages: candidates by codes or by words, exact scores, filters, additions and deletions."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fastserve_core.errors import DataError, OptionError
from fastserve_search.codes import EXACT, Codes, choose_kind, remove_other_codes
from fastserve_search.filters import Where
from fastserve_search.store import CutDocument, PassageStore, StoredPassage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastserve_search.store import RowNumbers, Vectors

DENSE, WORDS, HYBRID = "dense", "words", "hybrid"
MODES = (DENSE, WORDS, HYBRID)
MAX_HITS = 1_000
MIN_CANDIDATES, CANDIDATES_A_HIT = 200, 10
"""The number of candidates whose exact scores are computed, at least and for each hit."""
MAX_EXACT = 20_000
"""The number of passages that a filter leaves up to which all of them are compared exactly."""
FUSION_DEPTH, FUSION_CONSTANT = 50, 60
"""Reciprocal rank fusion (Cormack et al. 2009): the length of each list at least, and the constant of its ranks."""
MIN_TAIL = 1_000
"""The number of vectors added since the codes were written, from which they are written again."""


@dataclass(frozen=True)
class SearchRequest:
    """How an index is searched.

    Attributes:
        top_k: The maximum number of hits.
        mode: ``dense`` compares vectors, ``words`` counts words (BM25), ``hybrid`` fuses the ranks of both.
        where: Conditions on the fields of documents.
        candidates: The number of candidates that are compared exactly; by default 10 for each hit, at least 200.
    """

    top_k: int = 10
    mode: str = DENSE
    where: Where = field(default_factory=dict)
    candidates: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= MAX_HITS:
            raise OptionError(f"top_k must be 1 to {MAX_HITS}, not {self.top_k}")
        if self.mode not in MODES:
            raise OptionError(f"mode must be {', '.join(MODES)}, not '{self.mode}'")
        if self.candidates is not None and self.candidates < self.top_k:
            raise OptionError(f"candidates must be at least top_k ({self.top_k}), not {self.candidates}")


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        score: The cosine of the vectors, the BM25 score, or the sum of reciprocal ranks, as ``mode`` has it.
        passage: The passage.
    """

    score: float
    passage: StoredPassage

    def as_dict(self) -> dict[str, Any]:
        """Return the hit as an answer has it."""
        found = self.passage
        return {"id": found.id, "score": self.score, "text": found.text, "start": found.start, "end": found.end,
                "fields": dict(found.fields)}  # fmt: skip


class SearchIndex:
    """An index in a folder. Any thread may use it, one at a time; several processes may use one folder.

    Changes of other processes and instances are seen by the next search.

    Args:
        folder: The folder with the database, the vectors and the codes.
        verify: Whether to compare the vectors with their hashes.

    Raises:
        ArtifactError: The index is missing or damaged.
    """

    def __init__(self, folder: Path, verify: bool = False) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._store = PassageStore(folder)
        self.kind, self.width = self._store.meta("kind", EXACT), self._store.width
        if verify:
            self._store.verify_vectors()
        self._codes = self._load_codes()
        self._version = self._last_deletion = -1
        self._vectors: Vectors
        self._alive: NDArray[np.bool_]
        self._read_changes()

    @classmethod
    def create(cls, folder: Path, width: int, meta: dict[str, Any]) -> Self:
        """Make an empty index in an existing folder; ``meta`` has properties to record in it."""
        PassageStore.create(folder, {"kind": EXACT, **meta, "width": width}).close()
        return cls(folder)

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._store.close()

    @property
    def num_passages(self) -> int:
        """The number of passages that can be found."""
        return int(self._alive.sum())

    @property
    def num_documents(self) -> int:
        """The number of documents."""
        return self._store.num_documents

    @property
    def codes_bytes(self) -> int:
        """The bytes of the codes in memory; 0 for an exact index, which reads the vectors from the file."""
        return len(self._codes.serialize()) if self._codes else 0

    def describe(self, name: str) -> str:
        """Return a property that is recorded in the index, such as ``model``."""
        return self._store.meta(name)

    def sources(self) -> list[dict[str, Any]]:
        """Return the files that documents were read from, with their digests."""
        return self._store.list_sources()

    # -- changes -------------------------------------------------------------------------------------

    def _load_codes(self) -> Codes | None:
        if self.kind == EXACT:
            return None
        return Codes.load(self.kind, self.folder / self._store.meta("codes"), self._store.meta("codes_digest"))

    def _refresh(self) -> None:
        """Read the changes of other instances."""
        if (version := self._store.version()) != self._version:
            self._version = version
            self._read_changes()

    def _read_changes(self) -> None:
        import numpy as np

        if (kind := self._store.meta("kind")) != self.kind:
            self.kind = kind
            self._codes = self._load_codes()
        self._vectors = self._store.map_vectors()
        alive = np.ones(len(self._vectors), bool)
        if self._last_deletion >= 0:
            alive[: len(self._alive)] = self._alive
        for number, row in self._store.deletions(self._last_deletion):
            alive[row] = False
            self._last_deletion = number
        self._last_deletion = max(self._last_deletion, 0)
        self._alive = alive
        if self._codes is not None:
            self._codes.add(self._vectors[self._codes.num_rows :])

    def check_new(self, ids: Sequence[str]) -> None:
        """Check that no document has one of these ids.

        Raises:
            DataError: One has.
        """
        with self._lock:
            if known := self._store.find_known(ids):
                more = f" and {len(known) - 1} more" if len(known) > 1 else ""
                raise DataError(
                    f"a document with the id '{known[0]}'{more} is in the index already: replace it, or delete it"
                )

    def add(self, documents: Sequence[CutDocument], replace: bool = False) -> None:
        """Add documents, all or none.

        Args:
            documents: The documents.
            replace: Whether documents of the same id are replaced; otherwise they are refused.

        Raises:
            DataError: Two documents have one id, a document has no passage, or the vectors have another width.
        """
        ids = [cut.document.id for cut in documents]
        for cut in documents:
            if not cut.passages:
                raise DataError(f"the document '{cut.document.id}' is empty")
            if cut.vectors.shape != (len(cut.passages), self.width):
                model = self.describe("model")
                raise DataError(f"vectors of {cut.vectors.shape[-1]} do not fit an index of {self.width}, of {model}")
        if repeated := [name for name, count in Counter(ids).items() if count > 1]:
            raise DataError(f"two documents have the id '{repeated[0]}'")
        with self._lock:
            with self._store.transaction():
                if replace:
                    self._store.delete(ids)
                else:
                    self.check_new(ids)
                self._store.add(documents)
            self._read_changes()
            self._save_tail()

    def record_source(self, name: str, digest: str, documents: int) -> None:
        """Record a file that documents were read from."""
        with self._lock, self._store.transaction():
            self._store.add_source(name, digest, documents)

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Delete documents; return the ids that no document has."""
        with self._lock:
            with self._store.transaction():
                unknown = self._store.delete(ids)
            self._read_changes()
        return unknown

    def recode(self, kind: str | None = None) -> str:
        """Learn codes of a kind from all vectors, by default of one that fits their number; return the kind.

        Raises:
            OptionError: The kind is unknown, or does not fit the vectors.
        """
        with self._lock:
            self._refresh()
            kind = choose_kind(kind, len(self._vectors))
            codes = None if kind == EXACT else Codes.train(kind, self._vectors)
            if codes is not None:
                codes.add(self._vectors)
            self._save(kind, codes)
            return kind

    def _save_tail(self) -> None:
        if self._codes is None:
            return
        written = int(self._store.meta("codes_rows", "0"))
        if self._codes.num_rows - written >= max(MIN_TAIL, written // 10):
            self._save(self.kind, self._codes)

    def _save(self, kind: str, codes: Codes | None) -> None:
        """Write codes; a kill leaves the old ones or the new ones in use."""
        name, digest = codes.save(self.folder) if codes else ("", "")
        with self._store.transaction():
            rows = codes.num_rows if codes else 0
            for key, value in (("kind", kind), ("codes", name), ("codes_digest", digest), ("codes_rows", rows)):
                self._store.set_meta(key, str(value))
        self.kind, self._codes = kind, codes
        remove_other_codes(self.folder, [name])

    def snapshot(self, folder: Path) -> None:
        """Copy a consistent state of the index to a new folder, while it is used.

        Raises:
            OptionError: The folder exists.
        """
        if folder.exists():
            raise OptionError(f"{folder} exists already: a snapshot needs a new folder")
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with self._lock:
            self._store.copy_to(partial)
            if name := self._store.meta("codes"):
                shutil.copyfile(self.folder / name, partial / name)
        partial.rename(folder)

    # -- search --------------------------------------------------------------------------------------

    def search(self, queries: Vectors, texts: Sequence[str], request: SearchRequest) -> list[list[Hit]]:
        """Return the hits of each query, the best first.

        Args:
            queries: The queries' vectors, of shape (queries, width), of length 1.
            texts: The queries' texts, for their words.
            request: How to search.

        Raises:
            DataError: A filter names an unknown field or has another form.
        """
        with self._lock:
            self._refresh()
            allowed = self._store.filter_rows(request.where) if request.where else None
            if request.mode == DENSE:
                ranked = self._search_vectors(queries, allowed, request.top_k, request.candidates)
            elif request.mode == WORDS:
                ranked = [self._search_words(text, allowed, request.top_k) for text in texts]
            else:
                depth = max(FUSION_DEPTH, request.top_k)
                dense = self._search_vectors(queries, allowed, depth, request.candidates)
                words = [self._search_words(text, allowed, depth) for text in texts]
                ranked = [fuse(lists)[: request.top_k] for lists in zip(dense, words, strict=True)]
            return [self._read(found) for found in ranked]

    def _search_words(self, text: str, allowed: RowNumbers | None, count: int) -> list[tuple[int, float]]:
        return self._store.match_words(text, count, None if allowed is None else frozenset(allowed.tolist()))

    def _search_vectors(
        self, queries: Vectors, allowed: RowNumbers | None, count: int, candidates: int | None
    ) -> list[list[tuple[int, float]]]:
        """Return the rows with the greatest inner products, and these, for each query."""
        import numpy as np

        alive = self._alive
        if allowed is not None:
            alive = np.zeros_like(alive)
            alive[allowed[allowed < len(alive)]] = True
        rows = (
            np.flatnonzero(alive)
            if self._codes is None or (allowed is not None and len(allowed) <= MAX_EXACT)
            else None
        )
        if rows is not None:
            return [self._rank(query, rows, count) for query in queries]
        assert self._codes is not None
        wanted = max(candidates or max(MIN_CANDIDATES, CANDIDATES_A_HIT * count), count)
        return [
            self._rank(query, found, count)
            for query, found in zip(queries, self._find_candidates(queries, alive, wanted), strict=True)
        ]

    def _find_candidates(self, queries: Vectors, alive: NDArray[np.bool_], wanted: int) -> list[RowNumbers]:
        """Return candidates that are alive: more are searched for as long as too many of them are not."""
        assert self._codes is not None
        total, living = len(alive), max(1, int(alive.sum()))
        count = -(-wanted * total // living)
        while True:
            found = [rows[alive[rows]] for rows in self._codes.search(queries, count)]
            if count >= total or all(len(rows) >= min(wanted, living) // 2 for rows in found):
                return found
            count *= 4

    def _rank(self, query: Vectors, rows: RowNumbers, count: int) -> list[tuple[int, float]]:
        import numpy as np

        is_all = len(rows) == len(self._vectors)
        scores = (self._vectors if is_all else self._vectors[np.sort(rows)]) @ query
        best = np.argpartition(-scores, count - 1)[:count] if count < len(scores) else np.arange(len(scores))
        best = best[np.argsort(-scores[best], kind="stable")]
        names = best if is_all else np.sort(rows)[best]
        return [(int(row), float(score)) for row, score in zip(names, scores[best], strict=True)]

    def _read(self, ranked: Sequence[tuple[int, float]]) -> list[Hit]:
        passages = self._store.read([row for row, _ in ranked])
        pairs = zip(ranked, passages, strict=True)
        return [Hit(score, passage) for (_, score), passage in pairs if passage is not None]


def fuse(lists: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Return the rows of several ranked lists by the sum of their reciprocal ranks, the best first."""
    scores = dict[int, float]()
    for ranked in lists:
        for rank, (row, _) in enumerate(ranked, 1):
            scores[row] = scores.get(row, 0.0) + 1 / (FUSION_CONSTANT + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))

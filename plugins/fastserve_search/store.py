"""The passages of an index in an SQLite database, and their exact vectors in a file that only grows.

A change is one transaction. Vectors are written and flushed before it commits, and the bytes behind those that the
database counts mean nothing: a killed process leaves the index as it was. Several processes may read while one writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.errors import ArtifactError, MissingPackageError, StoreError, wrap_write_errors
from fastserve_search.filters import Where, compile_filter, field_value
from fastserve_search.passages import Passage
from fastserve_search.words import query_words, split_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    RowNumbers = NDArray[np.int64]

DATABASE, VECTORS = "passages.sqlite", "vectors.f32"
SCHEMA = 1
MAX_MATCHES = 10_000
"""The number of passages with the words of a query that are scored; its rarest words are taken first. Scoring 80,000
passages with common words took half a second on 2 busy cores, and 10,000 took 0.06 s."""
WAIT_SECONDS = 60
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, fields TEXT NOT NULL);
CREATE TABLE passages (row INTEGER PRIMARY KEY, document INTEGER NOT NULL, start INTEGER NOT NULL,
    end INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX passages_of_document ON passages (document);
CREATE TABLE fields (name TEXT NOT NULL, value NOT NULL, document INTEGER NOT NULL);
CREATE INDEX documents_of_field ON fields (name, value, document);
CREATE INDEX fields_of_document ON fields (document);
CREATE TABLE deletions (number INTEGER PRIMARY KEY AUTOINCREMENT, row INTEGER NOT NULL);
CREATE TABLE chunks (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, digest TEXT NOT NULL);
CREATE TABLE sources (number INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, documents INTEGER NOT NULL);
CREATE VIRTUAL TABLE postings USING fts5(words, detail=none, tokenize='unicode61 remove_diacritics 0');
CREATE VIRTUAL TABLE vocabulary USING fts5vocab(postings, row);
"""


@dataclass(frozen=True)
class Document:
    """A text to be found.

    Attributes:
        id: Its identifier, unique in the index.
        text: The text.
        fields: Its other values by name, for filters and for the reader.
        where: Its location, such as file and line, for messages.
    """

    id: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class CutDocument:
    """A document with its passages and their vectors, of shape (passages, width)."""

    document: Document
    passages: Sequence[Passage]
    vectors: Vectors


@dataclass(frozen=True)
class StoredPassage:
    """A passage as it was stored: the document's id, the characters from ``start`` to ``end``, and its fields."""

    id: str
    start: int
    end: int
    text: str
    fields: Mapping[str, Any]


class PassageStore:
    """The database and the vectors of one index; one thread uses it at a time.

    Args:
        folder: The folder of an index.

    Raises:
        ArtifactError: The index is missing, damaged, or of a newer schema.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / DATABASE
        if not path.is_file():
            raise ArtifactError(f"{folder} is not an index: it has no {DATABASE}")
        with self._explain_damage():
            self._database = _connect(path)
            (verdict,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise ArtifactError(f"{path} is damaged: {verdict}; make the index again")
            if (schema := int(self.meta("schema"))) > SCHEMA:
                raise ArtifactError(f"{folder} has schema {schema}; this FastServe reads up to {SCHEMA}")
            self.width = int(self.meta("width"))

    @classmethod
    def create(cls, folder: Path, meta: Mapping[str, Any]) -> PassageStore:
        """Make an empty index in a folder.

        Args:
            folder: The folder, which exists.
            meta: Properties to record in it; ``width`` is the number of elements of a vector.

        Raises:
            MissingPackageError: SQLite lacks its full-text search.
        """
        with closing(_connect(folder / DATABASE)) as database:
            try:
                database.executescript(TABLES)
            except sqlite3.OperationalError as error:
                raise MissingPackageError(f"this Python's SQLite lacks the full-text search FTS5: {error}") from error
            rows = {"schema": SCHEMA, **meta}.items()
            database.executemany("INSERT INTO meta VALUES (?, ?)", [(name, str(value)) for name, value in rows])
            database.commit()
        (folder / VECTORS).touch()
        return cls(folder)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # -- reading -------------------------------------------------------------------------------------

    def meta(self, name: str, default: str = "") -> str:
        """Return a property that is recorded in the index."""
        found = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return default if found is None else str(found[0])

    def version(self) -> int:
        """Return a number that changes when another connection changed the index."""
        return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    @property
    def num_rows(self) -> int:
        """The number of vectors that were ever added; a row is the number of one."""
        return int(self._database.execute("SELECT coalesce(max(first + count), 0) FROM chunks").fetchone()[0])

    @property
    def num_documents(self) -> int:
        """The number of documents."""
        return int(self._database.execute("SELECT count(*) FROM documents").fetchone()[0])

    def deletions(self, after: int) -> list[tuple[int, int]]:
        """Return the number and the row of each deletion after that number."""
        query = "SELECT number, row FROM deletions WHERE number > ? ORDER BY number"
        return self._database.execute(query, (after,)).fetchall()

    def map_vectors(self) -> Vectors:
        """Return the exact vectors, mapped from the file.

        Raises:
            ArtifactError: The file has fewer vectors than the database counts.
        """
        import numpy as np

        path, rows = self.folder / VECTORS, self.num_rows
        if not path.is_file() or path.stat().st_size < rows * self.width * 4:
            raise ArtifactError(f"{path} is damaged: it has fewer than {rows} vectors; make the index again")
        if not rows:
            return np.zeros((0, self.width), np.float32)
        return np.memmap(path, np.float32, "r", shape=(rows, self.width))

    def verify_vectors(self) -> None:
        """Compare the vectors with the hashes that were recorded when they were added.

        Raises:
            ArtifactError: They changed.
        """
        vectors = self.map_vectors()
        for first, count, digest in self._database.execute("SELECT first, count, digest FROM chunks"):
            if hashlib.sha256(vectors[first : first + count].data).hexdigest() != digest:
                raise ArtifactError(
                    f"{self.folder / VECTORS} is damaged: the vectors from {first} on changed; make the index again"
                )

    def read(self, rows: Sequence[int]) -> list[StoredPassage | None]:
        """Return the passages of rows, in their order; ``None`` for one that was deleted meanwhile."""
        query = (
            "SELECT row, id, start, end, text, fields FROM passages JOIN documents ON document = number "
            f"WHERE row IN ({', '.join('?' * len(rows))})"
        )
        found = {
            row: StoredPassage(name, start, end, text, json.loads(fields))
            for row, name, start, end, text, fields in self._database.execute(query, list(map(int, rows)))
        }
        return [found.get(int(row)) for row in rows]

    def filter_rows(self, where: Where) -> RowNumbers:
        """Return the rows of the passages of documents that meet the conditions, in order.

        Raises:
            DataError: No document has such a field, or a condition has another form.
        """
        import numpy as np

        known = [name for (name,) in self._database.execute("SELECT DISTINCT name FROM fields")]
        query, parameters = compile_filter(where, known)
        rows = self._database.execute(f"SELECT row FROM passages WHERE document IN ({query}) ORDER BY row", parameters)
        return np.fromiter((row for (row,) in rows), np.int64)

    def match_words(self, query: str, limit: int, allowed: frozenset[int] | None = None) -> list[tuple[int, float]]:
        """Return the rows with words of a query and their BM25 scores, the best first.

        Args:
            query: The query.
            limit: The maximum number of rows.
            allowed: The rows that count; by default all.
        """
        counts = dict[str, int]()
        for word in query_words(query):
            if found := self._database.execute("SELECT doc FROM vocabulary WHERE term = ?", (word,)).fetchone():
                counts[word] = int(found[0])
        words, total = list[str](), 0
        for word in sorted(counts, key=counts.__getitem__):
            if words and total + counts[word] > MAX_MATCHES:
                break
            words.append(f'"{word}"')
            total += counts[word]
        if not words:
            return []
        expression = "SELECT rowid, -bm25(postings) FROM postings WHERE postings MATCH ? ORDER BY rank"
        rows = self._database.execute(expression, (" OR ".join(words),))
        chosen = ((row, score) for row, score in rows if allowed is None or row in allowed)
        return [pair for pair, _ in zip(chosen, range(limit), strict=False)]

    def find_known(self, ids: Iterable[str]) -> list[str]:
        """Return those ids that documents of the index have."""
        query = "SELECT 1 FROM documents WHERE id = ?"
        return [name for name in ids if self._database.execute(query, (name,)).fetchone()]

    def list_sources(self) -> list[dict[str, Any]]:
        """Return the files that documents were read from, with their digests."""
        rows = self._database.execute("SELECT name, digest, documents FROM sources ORDER BY number")
        return [dict(zip(("name", "digest", "documents"), row, strict=True)) for row in rows]

    # -- writing -------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes in the context one: no other process writes meanwhile, and an error undoes them.

        Raises:
            StoreError: The index cannot be written, or another process writes for a minute.
        """
        with self._explain_damage():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.commit()
            except BaseException:
                self._database.rollback()
                raise

    def set_meta(self, name: str, value: str) -> None:
        """Record a property of the index."""
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def add_source(self, name: str, digest: str, documents: int) -> None:
        """Record a file that documents were read from."""
        self._database.execute("INSERT INTO sources VALUES (NULL, ?, ?, ?)", (name, digest, documents))

    def add(self, documents: Sequence[CutDocument]) -> None:
        """Add documents with ids that the index does not have; to be called in a transaction."""
        import numpy as np

        row = first = self.num_rows
        for cut in documents:
            document = cut.document
            values = (document.id, json.dumps(dict(document.fields), ensure_ascii=False))
            number = self._database.execute("INSERT INTO documents VALUES (NULL, ?, ?)", values).lastrowid
            fields = [(name, field_value(value), number) for name, value in document.fields.items()]
            self._database.executemany(
                "INSERT INTO fields VALUES (?, ?, ?)", [one for one in fields if one[1] is not None]
            )
            for passage in cut.passages:
                text = document.text[passage.start : passage.end]
                self._database.execute(
                    "INSERT INTO passages VALUES (?, ?, ?, ?, ?)", (row, number, passage.start, passage.end, text)
                )
                words = " ".join(split_words(text))
                self._database.execute("INSERT INTO postings (rowid, words) VALUES (?, ?)", (row, words))
                row += 1
        if row > first:
            self._append(first, np.concatenate([cut.vectors for cut in documents if len(cut.vectors)]))

    def _append(self, first: int, vectors: Vectors) -> None:
        import numpy as np

        data = np.ascontiguousarray(vectors, np.float32)
        with wrap_write_errors(VECTORS, self.folder), (self.folder / VECTORS).open("r+b") as file:
            file.seek(first * self.width * 4)
            file.write(data.data)
            file.truncate()  # the rest of an addition that was killed
            file.flush()
            os.fsync(file.fileno())
        digest = hashlib.sha256(data.data).hexdigest()
        self._database.execute("INSERT INTO chunks VALUES (?, ?, ?)", (first, len(data), digest))

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Delete documents, in a transaction; return the ids that no document has."""
        unknown = list[str]()
        for name in dict.fromkeys(ids):
            found = self._database.execute("SELECT number FROM documents WHERE id = ?", (name,)).fetchone()
            if found is None:
                unknown.append(name)
                continue
            rows = self._database.execute("SELECT row FROM passages WHERE document = ?", found).fetchall()
            self._database.executemany("DELETE FROM postings WHERE rowid = ?", rows)
            self._database.executemany("INSERT INTO deletions VALUES (NULL, ?)", rows)
            self._database.execute("DELETE FROM passages WHERE document = ?", found)
            self._database.execute("DELETE FROM fields WHERE document = ?", found)
            self._database.execute("DELETE FROM documents WHERE number = ?", found)
        return unknown

    def copy_to(self, folder: Path) -> None:
        """Copy a consistent state into an empty folder, while others read and write."""
        with wrap_write_errors("a snapshot", folder), closing(_connect(folder / DATABASE)) as copy:
            self._database.backup(copy)
            rows = copy.execute("SELECT coalesce(max(first + count), 0) FROM chunks").fetchone()[0]
            (folder / VECTORS).write_bytes(self.map_vectors()[:rows].tobytes())

    @contextmanager
    def _explain_damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.folder / DATABASE} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ArtifactError(f"{self.folder / DATABASE} is damaged: {error}; make the index again") from error


def _connect(path: Path) -> sqlite3.Connection:
    """Open a database; one in a folder that cannot be written is read without the files that SQLite has beside it."""
    if not os.access(path.parent, os.W_OK):
        if (log := path.with_name(f"{path.name}-wal")).is_file() and log.stat().st_size:
            raise ArtifactError(f"{log} has changes that were not merged: open the index once where it can be written")
        return sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, check_same_thread=False)
    database = sqlite3.connect(path, WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    return database

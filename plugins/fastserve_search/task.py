"""The task of a model with an index: queries to passages. The model's own task encodes, runs and serves its vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from typing_extensions import override

from fastserve_core.errors import ArtifactError, PlanError
from fastserve_core.tasks import (
    AnswerView,
    Arrays,
    Column,
    Encoded,
    Encoder,
    MetricSpec,
    Route,
    Row,
    Task,
    load_task,
    object_schema,
)
from fastserve_search.index import DENSE, SearchIndex, SearchRequest
from fastserve_search.models import DOCUMENT, INDEX, QUERY, Companions, check_lengths, list_prompts, vectors_of
from fastserve_search.passages import AreLong

if TYPE_CHECKING:
    from torch import nn

    from fastserve_core.config import ModelSpec

HITS, VECTORS = "hits", "vectors"
MAX_READ = 10
"""The number of hits that a reader reads at most."""


NOT_TRAINED = "an index is not trained: train a model of texts' vectors, then 'fastserve index RUN FILES'"


@dataclass
class Options:
    """``embedder`` is the task of the model, with its options; ``source`` and ``digest`` name its artifact.

    The others are those of a request: ``top_k`` hits are returned, found by ``mode``, of documents whose fields meet
    ``where``. With ``rerank`` the second stage orders them, and with ``answer`` the reader answers the query.
    """

    embedder: str = ""
    embedder_options: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    digest: str = ""
    top_k: int = 10
    mode: str = DENSE
    where: dict[str, Any] = field(default_factory=dict)
    candidates: int | None = None
    rerank: bool = False
    answer: bool = False
    output: str = HITS
    normalize: bool | None = None
    dimensions: int | None = None


class Search(Task):
    """Finds the passages of an index whose meaning is nearest to that of a query."""

    name: ClassVar[str] = "search"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        Column("text", title="Query", usual_names=("query", "question", "查询", "问题")),
        Column("prompt_name", required=False, title="Name of the prompt"),
    )
    metrics: ClassVar[Mapping[str, MetricSpec]] = {}
    answer_view: ClassVar[AnswerView] = AnswerView(headline="answer.answer", hits=HITS)
    request_parameters: ClassVar[Mapping[str, str]] = {
        "filter": "where",
        **{name: name for name in ("top_k", "mode", "candidates", "rerank", "answer")},
        **{name: name for name in ("output", "normalize", "dimensions")},
    }

    def __init__(self, options: Any, labels: Sequence[str] = ()) -> None:
        super().__init__(options, labels)
        self._index: SearchIndex | None = None
        self._companions: Companions | None = None

    @cached_property
    def embedder(self) -> Task:
        """The model's own task."""
        return load_task(self.options.embedder, self.options.embedder_options, self.labels)

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the model's own task."""
        return self.embedder.outputs

    @property
    def request_columns(self) -> tuple[Column, ...]:
        """The text."""
        return self.columns[:1]

    # -- a model with an index is made by a command, not trained -------------------------------------

    def _refuse(self) -> NoReturn:
        raise PlanError(NOT_TRAINED)

    @override
    def check(self, row: Row) -> str | None:
        return NOT_TRAINED

    @override
    def init_from_scratch(self, spec: ModelSpec, rows: Sequence[Row], folder: Path) -> None:
        self._refuse()

    @override
    def build(self, folder: Path) -> nn.Module:
        self._refuse()

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        self._refuse()

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        self._refuse()

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        self._refuse()

    # -- queries -------------------------------------------------------------------------------------

    @override
    def read_input(self, value: Any) -> Row:
        return self.embedder.read_input(value)

    @override
    def read_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        options = super().read_parameters(parameters)
        own = ("normalize", "dimensions")
        self.embedder.read_parameters({name: value for name, value in options.items() if name in own})
        request = {name: options[name] for name in ("top_k", "mode", "where", "candidates") if name in options}
        SearchRequest(**request)
        return options

    @override
    def encoder(self, folder: Path) -> Encoder:
        self._index, self._companions = self.open_index(folder), Companions(folder)
        encode = self.embedder.encoder(folder)
        prompt = {"prompt_name": QUERY} if QUERY in list_prompts(folder) else {}

        def encode_queries(rows: Sequence[Row]) -> list[Encoded]:
            named = [row if "prompt_name" in row or "tokens" in row else {**row, **prompt} for row in rows]
            plain = [{name: value for name, value in row.items() if name != "prompt_name" or value} for row in named]
            pairs = zip(rows, encode(plain), strict=True)
            return [replace(encoded, decode_state=(row.get("text", ""), encoded)) for row, encoded in pairs]

        return encode_queries

    def length_check(self, folder: Path) -> AreLong:
        """Return a function that returns which passages are longer than the model of a folder reads."""
        return check_lengths(self.embedder.encoder(folder), DOCUMENT in list_prompts(folder))

    def open_index(self, folder: Path, verify: bool = False) -> SearchIndex:
        """Return the index of a model's folder.

        Raises:
            ArtifactError: It is damaged, or was made with another model.
        """
        index = SearchIndex(folder / INDEX, verify)
        if (made := index.describe("model_digest")) != self.options.digest:
            names = (
                f"{index.describe('model')} ({made[:12]}), not with {self.options.source} ({self.options.digest[:12]})"
            )
            raise ArtifactError(f"{folder / INDEX} was made with the model {names}: make the index again")
        return index

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        return self.embedder.collate([encoded.decode_state[1] for encoded in batch])

    # -- hits ----------------------------------------------------------------------------------------

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        options = self.options
        own = [encoded.decode_state[1] for encoded in batch]
        if options.output == VECTORS:
            changes = {name: getattr(options, name) for name in ("normalize", "dimensions")}
            given = {name: value for name, value in changes.items() if value is not None}
            return self.embedder.with_options(given).decode(outputs, own)
        assert self._index is not None
        answers = self.embedder.with_options({"normalize": True}).decode(outputs, own)
        texts = [encoded.decode_state[0] for encoded in batch]
        request = SearchRequest(options.top_k, options.mode, options.where, options.candidates)
        found = self._index.search(vectors_of(self.embedder, answers), texts, request)
        hits = ([hit.as_dict() for hit in one] for one in found)
        return [self._finish(text, one) for text, one in zip(texts, hits, strict=True)]

    def _finish(self, text: str, hits: list[dict[str, Any]]) -> dict[str, Any]:
        assert self._companions is not None
        if self.options.rerank:
            hits = self._companions.rerank(text, hits)
        if not self.options.answer:
            return {HITS: hits}
        return {HITS: hits, "answer": self._companions.read(text, hits[:MAX_READ])}

    @override
    def answer_schema(self) -> dict[str, Any]:
        character = {"type": "integer", "minimum": 0, "description": "counted in characters of the document"}
        hit = object_schema(
            id={"type": "string"}, score={"type": "number"}, text={"type": "string"}, start=character, end=character,
            fields={"type": "object"},
        )  # fmt: skip
        schema = object_schema(hits={"type": "array", "items": hit})
        return {"anyOf": [schema, self.embedder.answer_schema()], "properties": {}}

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        lines = [f"{hit['score']:.3f}\t{hit['id']}\t{' '.join(hit['text'].split())}" for hit in answer[HITS]]
        if found := answer.get("answer"):
            lines.insert(0, f"{found['answer']}\t{found['score']:.3f}\t{found['id']}")
        return "\n".join(lines) or "(no hits)"

    @override
    def agrees(self, answer: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Return whether the first hits of two answers are the same passage."""
        first, second = ([(hit["id"], hit["start"]) for hit in one.get(HITS, ())[:1]] for one in (answer, other))
        return first == second

    @override
    def routes(self, folder: Path) -> Sequence[Route]:
        from fastserve_search.routes import make_routes

        return make_routes(self, folder)

"""HTTP routes of an index: search, additions and deletions, and the routes of the model that makes the vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fastserve_core.errors import DataError
from fastserve_core.tasks import PredictionRoute, Route
from fastserve_search.index import SearchIndex
from fastserve_search.models import DOCUMENT, list_prompts, vectors_of
from fastserve_search.passages import Passage, PassageCutter
from fastserve_search.schemas import (
    AddBody,
    AddResponse,
    DeleteBody,
    DeleteResponse,
    FoundAnswer,
    FoundHit,
    SearchBody,
    SearchResponse,
)
from fastserve_search.store import CutDocument, Document

if TYPE_CHECKING:
    from fastserve_search.task import Search

Predictions = Sequence[Mapping[str, Any]]
NOT_PARAMETERS = ("query", "model")


class SearchRoute(PredictionRoute):
    """The route for passages."""

    path = "/search"
    summary = "Find the passages nearest to a query"
    request_type = SearchBody
    response_type = SearchResponse

    @override
    def inputs(self, body: SearchBody) -> Sequence[Any]:
        return [body.query]

    @override
    def parameters(self, body: SearchBody) -> Mapping[str, Any]:
        given = {name: getattr(body, name) for name in body.__struct_fields__ if name not in NOT_PARAMETERS}
        return {name: value for name, value in given.items() if value is not None}

    @override
    def response(self, body: SearchBody, predictions: Predictions, model: str) -> SearchResponse:
        (found,) = predictions
        answer = found.get("answer")
        hits = [FoundHit(**hit) for hit in found["hits"]]
        return SearchResponse(hits, model, FoundAnswer(**answer) if answer else None, "truncated" in found)


class AddDocuments(PredictionRoute):
    """The route that adds documents.

    Args:
        task: The task of the served model.
        index: The index that is changed.
        cut: Cuts documents as those of the index.
        prompt: The name of the prompt of documents; empty without one.
    """

    path = "/documents/add"
    summary = "Add documents to the index"
    request_type = AddBody
    response_type = AddResponse
    is_blocking = True

    def __init__(self, task: Search, index: SearchIndex, cut: Callable[[str], list[Passage]], prompt: str) -> None:
        self._task, self._index, self._cut, self._prompt = task, index, cut, prompt

    @override
    def inputs(self, body: AddBody) -> Sequence[Any]:
        if not body.replace:  # before the model works for nothing
            self._index.check_new([document.id for document in body.documents])
        inputs = list[Any]()
        for document in body.documents:
            if not (passages := self._cut(document.text)):
                raise DataError(f"the document '{document.id}' is empty")
            texts = [document.text[start:end] for start, end in passages]
            inputs += [{"text": text, "prompt_name": self._prompt} for text in texts]
        return inputs

    @override
    def parameters(self, body: AddBody) -> Mapping[str, Any]:
        return {"output": "vectors", "normalize": True}

    @override
    def response(self, body: AddBody, predictions: Predictions, model: str) -> AddResponse:
        vectors, start, documents = vectors_of(self._task.embedder, predictions), 0, list[CutDocument]()
        for given in body.documents:
            passages = self._cut(given.text)
            own = vectors[start : start + len(passages)]
            documents.append(CutDocument(Document(given.id, given.text, given.fields), passages, own))
            start += len(passages)
        self._index.add(documents, body.replace)
        truncated = sum("truncated" in one for one in predictions)
        return AddResponse(len(documents), start, truncated, self._index.num_documents)


class DeleteDocuments(PredictionRoute):
    """The route that deletes documents.

    Args:
        index: The index that is changed.
    """

    path = "/documents/delete"
    summary = "Delete documents from the index"
    request_type = DeleteBody
    response_type = DeleteResponse
    is_blocking = True

    def __init__(self, index: SearchIndex) -> None:
        self._index = index

    @override
    def inputs(self, body: DeleteBody) -> Sequence[Any]:
        return ()

    @override
    def response(self, body: DeleteBody, predictions: Predictions, model: str) -> DeleteResponse:
        unknown = self._index.delete(body.ids)
        return DeleteResponse(len(set(body.ids)) - len(unknown), unknown, self._index.num_documents)


class ModelRoute(PredictionRoute):
    """A route of the model's own task: its inputs are texts to make vectors of, and not queries.

    Args:
        own: The route.
    """

    def __init__(self, own: PredictionRoute) -> None:
        self._own = own
        declared = ("path", "summary", "request_type", "response_type", "is_blocking")
        vars(self).update({name: getattr(own, name) for name in declared})

    @override
    def inputs(self, body: Any) -> Sequence[Any]:
        values = self._own.inputs(body)
        return [{"text": value, "prompt_name": ""} if isinstance(value, str) else value for value in values]

    @override
    def parameters(self, body: Any) -> Mapping[str, Any]:
        return {**self._own.parameters(body), "output": "vectors"}

    @override
    def response(self, body: Any, predictions: Predictions, model: str) -> Any:
        return self._own.response(body, predictions, model)


def make_routes(task: Search, folder: Path) -> Sequence[Route]:
    """Return the routes of a model with an index.

    Args:
        task: Its task.
        folder: Its folder.

    Raises:
        ArtifactError: The index is damaged, or was made with another model.
    """
    index = task.open_index(folder, verify=True)
    cutter = PassageCutter(int(index.describe("passage_words")), int(index.describe("overlap")))
    prompt = DOCUMENT if DOCUMENT in list_prompts(folder) else ""
    own = [ModelRoute(route) for route in task.embedder.routes(folder) if isinstance(route, PredictionRoute)]
    cut = partial(cutter.cut_to_fit, are_long=task.length_check(folder))
    return [SearchRoute(), AddDocuments(task, index, cut, prompt), DeleteDocuments(index), *own]

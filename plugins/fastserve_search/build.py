"""``fastserve index``: makes an index beside a copy of its model, and changes one."""

from __future__ import annotations

import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import (
    MANIFEST,
    Artifact,
    Manifest,
    copy_tree,
    find_artifact,
    hash_file,
    load_artifact,
    write_manifest,
)
from fastserve_core.errors import ArtifactError, DataError, OptionError
from fastserve_core.events import Event, Notice, WarningRaised
from fastserve_core.inference import Predictor
from fastserve_core.processes import set_library_environment, skip_compile_cache
from fastserve_search.codes import choose_kind, import_faiss
from fastserve_search.documents import read_sources
from fastserve_search.index import SearchIndex
from fastserve_search.models import (
    DOCUMENT,
    INDEX,
    READER,
    RERANKER,
    check_companion,
    check_embedder,
    check_lengths,
    list_prompts,
    vectors_of,
)
from fastserve_search.passages import PassageCutter
from fastserve_search.store import CutDocument, Document
from fastserve_search.task import Options, Search

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions
    from fastserve_search.store import Vectors

Emit = Callable[[Event], None]
WORDS_A_TOKEN = 0.6
"""The words of a passage for each token that the model reads. Longer passages than it reads are cut again."""
DEFAULT_WORDS = 120
WINDOW = 1_024
"""The number of documents that are added in one transaction."""
BATCH = 32
NOTICE_SECONDS = 5


def run_index(options: Namespace, data: DataOptions, emit: Emit) -> int:
    """Run ``fastserve index``; return the exit code.

    Raises:
        UserError: The model, the index or the documents cannot be used.
    """
    import_faiss()
    set_library_environment()
    skip_compile_cache()
    given = find_artifact(Path(options.model))
    if given.manifest.task == Search.name:
        if options.to is not None or options.words is not None or options.overlap:
            raise OptionError("--to, --words and --overlap are for a new index: name a model's run, not an index")
        _change(given.folder, options, data, emit)
        return 0
    folder = Path(options.to or INDEX).absolute()
    if not options.files:
        raise OptionError("name the documents: fastserve index RUN FILE …")
    if folder.exists():
        _check_same(folder, given)
        _change(folder, options, data, emit)
        return 0
    _make(given, folder, options, data, emit)
    return 0


def _check_same(folder: Path, model: Artifact) -> None:
    """Check that a folder is an index of a model."""
    artifact = load_artifact(folder)
    if artifact.manifest.task != Search.name:
        raise ArtifactError(f"{folder} is not an index: it is a model for {artifact.manifest.task}")
    made = artifact.manifest.task_options
    if made["digest"] != model.digest:
        raise ArtifactError(
            f"{folder} is an index of {made['source']} ({made['digest'][:12]}), and not of {model.folder.name} "
            f"({model.digest[:12]}): choose another folder with --to"
        )


def _make(model: Artifact, folder: Path, options: Namespace, data: DataOptions, emit: Emit) -> None:
    """Make an index in a partial folder, which becomes the folder when all is done."""
    check_embedder(model)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        copy_tree(model.folder, partial, [*model.manifest.files, MANIFEST])
        embedder = Embedder(Predictor(load_artifact(partial)))
        words = options.words or embedder.default_words()
        cutter = PassageCutter(words, options.overlap)
        (partial / INDEX).mkdir()
        meta = {"model": model.folder.name, "model_digest": model.digest, "passage_words": cutter.size,
                "overlap": cutter.overlap}  # fmt: skip
        index = SearchIndex.create(partial / INDEX, embedder.width(), meta)
        _add(index, embedder, cutter, options, data, emit)
        kind = index.recode(choose_kind(options.kind, index.num_passages))
        _add_companions(partial, options)
        write_index_manifest(partial, model, index)
        _report(index, kind)
        index.close()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"search: fastserve search {options.to or INDEX} QUERY")
    print(f"serve: fastserve serve {options.to or INDEX}")


def _change(folder: Path, options: Namespace, data: DataOptions, emit: Emit) -> None:
    """Add documents to an index, delete some, or copy it; a server that uses it sees the changes."""
    artifact = load_artifact(folder)
    task = Search(Options(**artifact.manifest.task_options))
    index = task.open_index(folder, verify=True)
    if options.delete and (unknown := index.delete(options.delete)):
        raise DataError(f"no document has the id {', '.join(map(repr, unknown))}; the others were deleted")
    if options.files:
        cutter = PassageCutter(int(index.describe("passage_words")), int(index.describe("overlap")))
        _add(index, Embedder(Predictor(_own_model(artifact))), cutter, options, data, emit)
    if options.recode or options.kind:
        index.recode(options.kind)
    if options.reader or options.reranker:
        _add_companions(folder, options)
        _rewrite_manifest(artifact)
    if options.snapshot:
        target = Path(options.snapshot).absolute()
        if target.exists():
            raise OptionError(f"--snapshot: {target} exists already")
        partial = target.with_name(f".{target.name}.partial")
        copy_tree(folder, partial, [*load_artifact(folder).manifest.files, MANIFEST])
        index.snapshot(partial / INDEX)
        partial.rename(target)
        print(f"snapshot: {target}")
    _report(index, index.kind)


class Embedder:
    """Makes vectors of passages with a model.

    Args:
        predictor: The model.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        folder = predictor.artifact.folder
        self._prompt = {"prompt_name": DOCUMENT} if DOCUMENT in list_prompts(folder) else {}
        self.are_long = check_lengths(predictor.encode, bool(self._prompt))
        self.truncated = 0

    def default_words(self) -> int:
        """Return the words of a passage that the model reads whole in most languages."""
        limit = getattr(self._predictor.task.options, "max_length", None)
        return max(8, int(limit * WORDS_A_TOKEN)) if limit else DEFAULT_WORDS

    def width(self) -> int:
        """Return the length of the model's vectors."""
        return int(self.embed(["width"]).shape[1])

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, of length 1, and count those that were cut."""
        rows = [{"text": text, **self._prompt} for text in texts]
        answers = self._predictor.predict(rows, BATCH, {"normalize": True})
        self.truncated += sum("truncated" in answer for answer in answers)
        vectors: Vectors = vectors_of(self._predictor.task, answers)
        return vectors


def _own_model(artifact: Artifact) -> Artifact:
    """Return the model of an index as an artifact of its own task."""
    manifest = artifact.manifest
    options = manifest.task_options
    own = Manifest(
        options["embedder"],
        options["embedder_options"],
        manifest.labels,
        manifest.runtime,
        manifest.lineage,
        manifest.files,
    )
    return Artifact(artifact.folder, artifact.digest, own)


def _add(
    index: SearchIndex, embedder: Embedder, cutter: PassageCutter, options: Namespace, data: DataOptions, emit: Emit
) -> None:
    """Add the documents of files, which are all read before the first one is embedded."""
    sources = list(read_sources(options.files, data, lambda message: emit(Notice(message))))
    documents = [document for source in sources for document in source.documents]
    if not documents:
        raise DataError("the files have no documents")
    if not options.replace:
        index.check_new([document.id for document in documents])
    shown = time.monotonic()
    for start in range(0, len(documents), WINDOW):
        window = documents[start : start + WINDOW]
        index.add(_cut(window, cutter, embedder), options.replace)
        if time.monotonic() - shown > NOTICE_SECONDS:
            shown = time.monotonic()
            emit(Notice(f"{start + len(window)} of {len(documents)} documents"))
    for source in sources:
        index.record_source(source.name, source.digest, len(source.documents))
    if embedder.truncated:
        emit(WarningRaised(f"{embedder.truncated} passages are longer than the model reads, and were cut"))


def _cut(documents: Sequence[Document], cutter: PassageCutter, embedder: Embedder) -> list[CutDocument]:
    """Return documents with their passages and vectors."""
    passages = [cutter.cut_to_fit(document.text, embedder.are_long) for document in documents]
    texts = [document.text[start:end] for document, own in zip(documents, passages, strict=True) for start, end in own]
    vectors, start, found = embedder.embed(texts), 0, list[CutDocument]()
    for document, own in zip(documents, passages, strict=True):
        found.append(CutDocument(document, own, vectors[start : start + len(own)]))
        start += len(own)
    return found


def _add_companions(folder: Path, options: Namespace) -> None:
    """Copy the reader and the second stage into the folder of an index."""
    for kind, given in ((READER, options.reader), (RERANKER, options.reranker)):
        if given:
            artifact = find_artifact(Path(given))
            check_companion(artifact, kind)
            copy_tree(artifact.folder, folder / kind, [*artifact.manifest.files, MANIFEST])


def _hash_models(folder: Path) -> dict[str, str]:
    """Return the hashes of the files of the models beside an index, which changes."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    models = [name for name in names if name.parts[0] not in (INDEX, MANIFEST)]
    return {name.as_posix(): hash_file(folder / name) for name in models}


def write_index_manifest(folder: Path, model: Artifact, index: SearchIndex) -> None:
    """Write the manifest of a new index: the task of its model is an option, and its files are in the lineage.

    Args:
        folder: The folder, with the files of the model and the index.
        model: The model.
        index: The index.
    """
    own = model.manifest
    options: dict[str, Any] = {
        "embedder": own.task,
        "embedder_options": dict(own.task_options),
        "source": model.folder.name,
        "digest": model.digest,
    }
    entry = {"stage": INDEX, "plugin": Search.name, "model": model.digest, "sources": index.sources(),
             "passages": index.num_passages}  # fmt: skip
    runtime = {**own.runtime}
    lineage = (*own.lineage, entry)
    write_manifest(folder, Manifest(Search.name, options, own.labels, runtime, lineage, _hash_models(folder)))


def _rewrite_manifest(artifact: Artifact) -> None:
    own = artifact.manifest
    parts = (own.task, own.task_options, own.labels, own.runtime, own.lineage)
    write_manifest(artifact.folder, Manifest(*parts, _hash_models(artifact.folder)))


def _report(index: SearchIndex, kind: str) -> None:
    memory = f", {index.codes_bytes / 1e6:.1f} MB in memory" if index.codes_bytes else ""
    exact = index.num_passages * index.width * 4 / 1e6
    print(
        f"index: {index.num_documents} documents, {index.num_passages} passages of {index.width} numbers, {kind}"
        f"{memory} ({exact:.1f} MB exact on disk)"
    )

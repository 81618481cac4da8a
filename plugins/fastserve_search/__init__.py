"""Semantic search: an index of passages beside the model that makes their vectors, and its commands."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.errors import OptionError, did_you_mean
from fastserve_core.events import Event
from fastserve_core.plugins import Command

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions


class Index(Command):
    """The command ``fastserve index``."""

    help: ClassVar[str] = "make an index of documents with a model of texts' vectors, or change one"

    @override
    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "model", metavar="RUN_OR_INDEX", help="a model whose answers are vectors, or an index to change"
        )
        parser.add_argument("files", nargs="*", metavar="FILE", help="documents: files, folders or patterns")
        parser.add_argument("--to", metavar="FOLDER", help="the folder of a new index (default: index)")
        parser.add_argument("--kind", choices=("exact", "pq", "hnsw"), help="of codes (default: by the number)")
        parser.add_argument("--words", type=int, help="the words of a passage at most (default: by the model's length)")
        parser.add_argument("--overlap", type=int, default=0, help="the words that passages share (default: 0)")
        parser.add_argument("--replace", action="store_true", help="replace documents of the same id")
        parser.add_argument("--delete", action="append", default=[], metavar="ID", help="delete a document")
        parser.add_argument("--recode", action="store_true", help="learn the codes again from the exact vectors")
        parser.add_argument("--reader", metavar="RUN", help="a model that answers questions, for 'search --answer'")
        parser.add_argument("--reranker", metavar="RUN", help="a model that scores pairs, for 'search --rerank'")
        parser.add_argument("--snapshot", metavar="FOLDER", help="copy the index, which may be in use, to a new folder")

    @override
    def run(self, options: Namespace, data: DataOptions, emit: Callable[[Event], None]) -> int:
        from fastserve_search.build import run_index

        return run_index(options, data, emit)


def index_documents(model: str | Path, *files: str | Path, **options: Any) -> None:
    """Make an index of documents, or change one, as ``fastserve index`` does.

    Args:
        model: A run or an artifact whose answers are vectors, or an index to change.
        files: Files, folders or patterns of documents.
        options: The options of the command by name, as ``to="index"`` or ``delete=["id"]``; ``data`` is a mapping of
            the options of reading.

    Raises:
        OptionError: The command has no such option.
        UserError: The model, the index or the documents cannot be used.
    """
    from fastserve_core.config import DataOptions, parse_options

    command, parser = Index(), ArgumentParser()
    command.add_arguments(parser)
    data = parse_options(DataOptions, options.pop("data", {}), "data")
    known = vars(parser.parse_args([str(model), *map(str, files)]))
    for name in options:
        if name not in known:
            raise OptionError(f"an index has no option '{name}'{did_you_mean(name, known)}")
    command.run(Namespace(**known | options), data, lambda event: None)


class SearchCommand(Command):
    """The command ``fastserve search``."""

    help: ClassVar[str] = "find the passages of an index nearest to a query"

    @override
    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("index", metavar="INDEX", help="the folder of an index")
        parser.add_argument("queries", nargs="+", metavar="QUERY")
        parser.add_argument("--top", type=int, default=10, help="the number of hits (default: 10)")
        parser.add_argument("--mode", choices=("dense", "words", "hybrid"), default="dense", help="(default: dense)")
        parser.add_argument(
            "--where", action="append", default=[], metavar="FIELD=VALUE", help="only documents with this field's value"
        )
        parser.add_argument("--rerank", action="store_true", help="order the hits by the second stage")
        parser.add_argument("--answer", action="store_true", help="answer the question from the hits by the reader")
        parser.add_argument("--json", action="store_true", help="print JSON lines")

    @override
    def run(self, options: Namespace, data: DataOptions, emit: Callable[[Event], None]) -> int:
        from fastserve_search.find import run_search

        return run_search(options)

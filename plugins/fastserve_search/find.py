"""``fastserve search``: prints the passages that an index has for queries."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import find_artifact
from fastserve_core.errors import ArtifactError, OptionError
from fastserve_core.inference import Predictor
from fastserve_core.processes import set_library_environment, skip_compile_cache
from fastserve_search.task import Search


def run_search(options: Namespace) -> int:
    """Run ``fastserve search``; return the exit code.

    Raises:
        UserError: The index or a query cannot be used.
    """
    set_library_environment()
    skip_compile_cache()
    artifact = find_artifact(Path(options.index))
    if artifact.manifest.task != Search.name:
        raise ArtifactError(
            f"{options.index} is a model for {artifact.manifest.task}: 'fastserve index' makes an index"
        )
    predictor = Predictor(artifact)
    parameters = {"top_k": options.top, "mode": options.mode, "filter": _parse_filter(options.where),
                  "rerank": options.rerank, "answer": options.answer}  # fmt: skip
    for answer in predictor.predict(options.queries, parameters=parameters):
        print(json.dumps(answer, ensure_ascii=False) if options.json else predictor.task.format_answer(answer))
    return 0


def _parse_filter(given: list[str]) -> dict[str, Any]:
    """Return the conditions of arguments such as ``year=2020``; a value that is JSON is that value.

    Raises:
        OptionError: An argument has another form.
    """
    where = dict[str, Any]()
    for argument in given:
        name, equals, text = argument.partition("=")
        if not equals:
            raise OptionError(f"--where {argument}: write FIELD=VALUE")
        try:
            where[name] = json.loads(text)
        except ValueError:
            where[name] = text
    return where

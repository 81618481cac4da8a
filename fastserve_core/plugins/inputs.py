"""The inputs of a verb, which it may read but not change: the files of the model and of the data, and its options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.artifacts.hashing import hash_file, stable_hash

if TYPE_CHECKING:
    from fastserve_core.plugins.contexts import StageContext
    from fastserve_core.plugins.registry import ActivePlugin


class VerbInputs:
    """The state of a verb's inputs when the object was made.

    Args:
        active: The plugin.
        run: The verb's context.
    """

    def __init__(self, active: ActivePlugin[Any], run: StageContext) -> None:
        models: list[Artifact] = [run.model, *filter(None, [getattr(run, "original", None)])]
        data = getattr(run, "data", None)
        self._active, self._options = active, asdict(active.options)
        self._models = [(model, stable_hash(asdict(model.manifest))) for model in models]
        self._hashes = {model.folder / name: value for model in models for name, value in model.manifest.files.items()}
        paths = [
            *self._hashes,
            *(path for model in models if not model.manifest.files for path in model.folder.glob("*")),
        ]
        paths += data.folder.rglob("*") if data is not None else []
        self._files = {path: _sign_file(path) for path in paths if not path.is_dir()}

    def find_changes(self) -> Iterator[str]:
        """Describe each input that has changed since."""
        for path, before in self._files.items():
            after = _sign_file(path)
            if after is None:
                yield f"removed {path}"
            elif after != before and not (path in self._hashes and hash_file(path) == self._hashes[path]):
                yield f"changed {path}"
        for model, digest in self._models:
            if stable_hash(asdict(model.manifest)) != digest:
                yield f"changed the manifest of {model.folder}"
        options = asdict(self._active.options)
        for name in options:
            if options[name] != self._options[name]:
                yield f"changed its option {name} from {self._options[name]!r} to {options[name]!r}"


def _sign_file(path: Path) -> tuple[int, ...] | None:
    """Return the signs of a file's change, without reading it: a program cannot set the time of the last change."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

"""Keeps some of an encoder's layers. Found by its entry point, imported only when it is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastserve_core import hookimpl
from fastserve_core.errors import OptionError
from fastserve_core.plugins import CompressContext, Compressor, StagedArtifact

WHICH = ("first", "spread")


@dataclass
class DropLayersOptions:
    """``keep`` layers are left: the ``first`` ones, or ones ``spread`` evenly from the first to the last."""

    keep: int = 3
    which: str = "first"

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise OptionError(f"compress.drop_layers.keep must be at least 1, not {self.keep}")
        if self.which not in WHICH:
            raise OptionError(f"compress.drop_layers.which must be one of {', '.join(WHICH)}, not '{self.which}'")


class DropLayers(Compressor):
    """The compressor: trainable weights in, trainable weights out."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    form: ClassVar[tuple[str, str]] = ("trainable", "trainable")
    Options = DropLayersOptions

    def __init__(self, options: DropLayersOptions) -> None:
        self.options = options

    @hookimpl
    def compress(self, run: CompressContext) -> StagedArtifact:
        from fastserve_core.processes import run_in_child

        labels = run.model.manifest.labels  # the model's own: its classes are numbered by them
        draft = run.clean_folder()
        request = {
            "model": run.model.folder,
            "draft": draft,
            "task": [run.task.name, vars(run.task.options), labels],
            "keep": self.options.keep,
            "which": self.options.which,
        }
        run_in_child("fastserve_drop_layers.drop", request, run.threads, run.emit)
        return StagedArtifact(draft, labels=labels)

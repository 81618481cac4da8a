"""Export to ``model.pt2``, the file of torch.export, which torch loads without FastServe or transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from fastserve_core.export import FormatReader, wrap_export_errors
from fastserve_core.processes import suppress_library_output
from fastserve_core.tasks import Arrays
from fastserve_engines.exportable import TracedModel

MODEL_FILE = "model.pt2"


class TorchExport(TracedModel):
    """Export to ``model.pt2``: a zip of the graph as JSON and the weights as bytes."""

    requires: ClassVar[tuple[str, ...]] = ("torch",)
    install: ClassVar[str] = "fastserve-core[text]"
    engine: ClassVar[str] = ""
    about: ClassVar[Mapping[str, Any]] = {}
    tolerance: ClassVar[float] = 1e-3

    def write(self, module: nn.Module, folder: Path) -> None:
        """Write the file.

        Args:
            module: Module with the interface of ``self.module``.
            folder: Folder to write.

        Raises:
            ExportError: torch cannot export the module.
        """
        with suppress_library_output(), torch.no_grad(), wrap_export_errors("exported by torch"):
            example, shapes = self.example()
            program = torch.export.export(module, example, dynamic_shapes=shapes)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # source lines with paths of this machine
            folder.mkdir(parents=True, exist_ok=True)
            torch.export.save(program, folder / MODEL_FILE)
            (folder / "signature.txt").write_text("\n".join((*self.inputs, "", *self.outputs)), encoding="utf-8")

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        """Load the file with torch."""
        torch.set_num_threads(threads)
        return TorchExportFile(folder)


class TorchExportFile:
    """``model.pt2`` in torch; inputs and outputs are positional, with their names in ``signature.txt``."""

    def __init__(self, folder: Path) -> None:
        names = (folder / "signature.txt").read_text(encoding="utf-8").split("\n\n")
        self.inputs, self._output_names = (tuple(part.split()) for part in names)
        self._module = torch.export.load(folder / MODEL_FILE).module()

    def run(self, inputs: Arrays) -> Arrays:
        """Run one pass.

        Args:
            inputs: Integer arrays of shape (batch, length).

        Returns:
            Outputs by name.
        """
        with torch.inference_mode():
            outputs = self._module(*(torch.from_numpy(inputs[name]) for name in self.inputs))
        return {name: tensor.numpy() for name, tensor in zip(self._output_names, outputs, strict=True)}

"""From a torch model to ``model.pt2``, the file of torch.export: torch alone loads it, without our or its own class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from fastserve_core.export import FormatReader, single_line_error
from fastserve_core.processes import suppress_library_output
from fastserve_core.tasks import Arrays
from fastserve_engines.exportable import TracedModel

MODEL = "model.pt2"


class TorchExport(TracedModel):
    """How a model becomes ``model.pt2``: a zip of the graph as JSON and the weights as bytes."""

    requires: ClassVar[tuple[str, ...]] = ("torch",)
    install: ClassVar[str] = "fastserve-core[text]"
    engine: ClassVar[str] = ""
    about: ClassVar[Mapping[str, Any]] = {}
    tolerance: ClassVar[float] = 1e-3

    def write(self, module: nn.Module, folder: Path) -> None:
        with suppress_library_output(), torch.no_grad(), single_line_error("exported by torch"):
            example, shapes = self.example()
            program = torch.export.export(module, example, dynamic_shapes=shapes)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # lines of source code, with their paths on this machine
            folder.mkdir(parents=True, exist_ok=True)
            torch.export.save(program, folder / MODEL)
            (folder / "signature.txt").write_text("\n".join((*self.inputs, "", *self.outputs)), encoding="utf-8")

    @staticmethod
    def read(folder: Path, threads: int) -> FormatReader:
        torch.set_num_threads(threads)
        return TorchExportFile(folder)


class TorchExportFile:
    """``model.pt2`` in torch; inputs and outputs are by place, their names are in ``signature.txt``."""

    def __init__(self, folder: Path) -> None:
        names = (folder / "signature.txt").read_text(encoding="utf-8").split("\n\n")
        takes, gives = (tuple(part.split()) for part in names)
        self.inputs, self._gives = takes, gives
        self._module = torch.export.load(folder / MODEL).module()

    def run(self, inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            found = self._module(*(torch.from_numpy(inputs[name]) for name in self.inputs))
        return {name: one.numpy() for name, one in zip(self._gives, found, strict=True)}

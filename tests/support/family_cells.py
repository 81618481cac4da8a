"""The stages that a family of models supports: each is tried on a tiny classifier, as cheaply as proves it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families import make_model

from fastserve_compression import PruneOptions
from fastserve_compression.distillation_loss import Distillation
from fastserve_compression.importance import task_loss
from fastserve_compression.prune import check_model, cut_units
from fastserve_compression.structural_pruning import record_sizes
from fastserve_core.artifacts import TRAINABLE, Manifest, copy_tokenizer, hash_files, write_manifest
from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import UserError
from fastserve_core.export import load_format
from fastserve_core.inference import Predictor
from fastserve_core.tasks import LossOptions, Task, load_task
from fastserve_engines.torch_engine import TorchEngine
from fastserve_neural_compressor.weight_only import quantize_encoder

WORDS = ["the", "film", "is", "a", "story", "of", "good", "bad", "great", "awful", "acting", "and", "plot"]
ROWS = [
    {"text": "the film is good", "label": "good"},
    {"text": "awful story of a bad plot and awful acting", "label": "bad"},
    {"text": "great", "label": "good"},
]
LABELS = ["bad", "good"]
HEAD = "ForSequenceClassification"
IN_TORCH = ("train", "torch", "serve", "distil", "prune")
EXPORTS = ("OpenVINO", "int8", "ONNX")
MIN_SPREAD = 0.05
"""How far logits of different texts differ at least, so that a comparison of two engines means something."""


class Family:
    """A tiny classifier of one family, and the attempts to use it.

    Args:
        name: The ``model_type``.
        folder: A folder to write into.
        layers: The number of layers.
    """

    def __init__(self, name: str, folder: Path, layers: int = 2) -> None:
        self.name, self.work = name, folder
        self.folder = make_model(name, folder / "model", HEAD, WORDS, LABELS, layers)
        self.task: Task = load_task("text_classification", {"max_length": 24}, LABELS)
        self.encoded = self.task.encoder(self.folder)(ROWS)
        model = self.build()
        with torch.no_grad():  # random weights give logits too near zero to compare
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.mul_(5)
        model.save_pretrained(self.folder)
        self.expected = TorchEngine(self.folder, 1, exact=True).run(self.task.collate(self.encoded))["logits"]
        assert np.ptp(self.expected, axis=0).max() > MIN_SPREAD

    def build(self) -> Any:
        torch.manual_seed(0)
        return self.task.build(self.folder)

    def batch(self, model: Any) -> dict[str, torch.Tensor]:
        accepted = {*signature(model.forward).parameters, "labels"}
        arrays = self.task.collate(self.encoded, targets=True)
        return {name: torch.from_numpy(array) for name, array in arrays.items() if name in accepted}

    def cell(self, column: str) -> str:
        """Return ``yes``, or the sentence that a user gets, with ``…`` for what is of the family alone."""
        attempts: dict[str, Callable[[], None]] = {
            "train": self.train,
            "torch": partial(self.compare, TorchEngine, self.folder),
            "serve": self.serve,
            "distil": self.distil,
            "prune": self.prune,
            "OpenVINO": partial(self.export, "openvino"),
            "int8": self.quantize,
            "ONNX": partial(self.export, "onnx"),
        }
        try:
            attempts[column]()
        except UserError as error:
            return re.sub(rf"\w+{HEAD}\b|\b{self.name}(?= models)", "…", str(error))
        return "yes"

    def train(self) -> None:
        """A step of the task's loss reaches the embeddings and the head."""
        model = self.build().train()
        batch = self.batch(model)
        outputs = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
        self.task.loss(outputs, batch, LossOptions()).total.backward()
        assert model.get_input_embeddings().weight.grad.abs().sum() > 0

    def serve(self) -> None:
        """A text is answered alike alone and beside others, from a published folder."""
        manifest = Manifest(
            "text_classification", {"max_length": 24}, tuple(LABELS), {"engine": "torch", "form": TRAINABLE}, (),
            hash_files(self.folder),
        )  # fmt: skip
        write_manifest(self.folder, manifest)
        predictor = Predictor(self.folder, 1)
        texts = [row["text"] for row in ROWS]
        together = [answer["scores"]["good"] for answer in predictor.predict(texts)]
        alone = [predictor.predict([text])[0]["scores"]["good"] for text in texts]
        np.testing.assert_allclose(together, alone, rtol=1e-3)

    def distil(self) -> None:
        """The default loss of ``distill`` is finite, and zero between equal models."""
        model = self.build().eval()
        options = {"teacher": self.folder, "alpha": 0.9, "temperature": 2.0, "hidden_weight": 1.0, "relation_weight": 0}
        loss = Distillation(options, model, torch.float32, torch.device("cpu"))
        batch = self.batch(model)
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        total = loss(inputs, model(**inputs, **loss.forward_kwargs), batch["labels"] >= 0, torch.zeros(()))
        assert abs(float(total)) < 1e-4

    def prune(self) -> None:
        """Half of the neurons are cut, and the smaller model loads and computes."""
        model: Any = self.build().eval()
        options = PruneOptions(head_ratio=0, neuron_ratio=0.5)
        check_model(model, options)
        before = sum(weight.numel() for weight in model.parameters())
        cut_units(model, [self.batch(model)], options, lambda *_: None, partial(task_loss, self.task))
        record_sizes(model)
        pruned = self.work / "pruned"
        model.save_pretrained(pruned)
        copy_tokenizer(self.folder, pruned)
        with torch.no_grad():
            wanted = model(**{name: one for name, one in self.batch(model).items() if name != "labels"}).logits.numpy()
        assert sum(weight.numel() for weight in self.task.build(pruned).parameters()) < before
        self.compare(TorchEngine, pruned, wanted)

    def export(self, to: str) -> None:
        """The format's own runtime answers as torch does, also for lengths that were not traced."""
        self._write(to, self.work / to)
        self.compare(load_format_reader(to), self.work / to)

    def quantize(self) -> None:
        """A model with 8-bit weights answers about as torch does."""
        target = self.work / "int8"
        quantize_encoder(self.build().eval().float(), target)
        self._copy_config(target)
        self.compare(load_format_reader("openvino"), target, tolerance=0.25)

    def _write(self, to: str, target: Path) -> None:
        export = load_format(to, self.build().eval())
        export.write(export.module, target)
        self._copy_config(target)

    def _copy_config(self, target: Path) -> None:
        (target / "config.json").write_bytes((self.folder / "config.json").read_bytes())

    def compare(self, engine: Any, folder: Path, expected: Any = None, tolerance: float = 0.05) -> None:
        wanted = self.expected if expected is None else expected
        reader = engine(folder, 1)
        for rows in ([0, 1, 2], [1], [2, 0]):
            logits = reader.run(self.task.collate([self.encoded[row] for row in rows]))["logits"]
            difference = np.abs(logits - wanted[rows]).max() / np.abs(wanted).max()
            if not difference <= tolerance:
                raise UserError(f"the answers differ from torch's by {difference:.2g} of the largest")


def load_format_reader(to: str) -> Any:
    return load_entry_point("fastserve.exports", to).read

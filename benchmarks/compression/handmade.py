"""Models that others would make of the same checkpoint by hand; a process of its own, which writes their files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastserve_core.data import load_dataset
from fastserve_core.processes import child_main, hide_package, suppress_library_output

NEEDS = {
    "openvino": ("openvino",),
    "openvino_int8": ("openvino", "nncf"),
    "onnxruntime_int8": ("onnx", "onnxruntime", "onnxscript"),
}
"""By the name of what is made: the packages."""
CALIBRATION_ROWS = 300
LENGTH = 128


def make(model: str, data: str, folder: str, kind: str, events: str) -> str:
    """Write one kind of files; returns the path of the file to load."""
    target = Path(folder) / kind
    target.mkdir(parents=True, exist_ok=True)
    with suppress_library_output(), hide_package("openvino_telemetry"):
        return str(KINDS[kind](Path(model), Path(data), target))


def _torch_model(model: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(model).eval()


def _example(rows: int = 2, length: int = 16) -> dict[str, Any]:
    import torch

    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: torch.ones(rows, length, dtype=torch.long) for name in names}


def _openvino_model(model: Path) -> Any:
    import openvino

    return openvino.convert_model(_torch_model(model), example_input=_example())


def _openvino(model: Path, data: Path, target: Path) -> Path:
    import openvino

    openvino.save_model(_openvino_model(model), target / "model.xml", compress_to_fp16=False)
    return target / "model.xml"


def _openvino_int8(model: Path, data: Path, target: Path) -> Path:
    """NNCF's post-training quantization, with its setting for transformers."""
    import nncf
    import openvino
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = load_dataset(data).rows("train")
    texts = [row["text"] for row in random.Random(0).sample(rows, min(CALIBRATION_ROWS, len(rows)))]

    def encode(text: str) -> dict[str, Any]:
        return dict(tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="np"))

    made = nncf.quantize(
        _openvino_model(model), nncf.Dataset(texts, encode), model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
    )  # fmt: skip
    openvino.save_model(made, target / "model.xml", compress_to_fp16=False)
    return target / "model.xml"


def _onnxruntime_int8(model: Path, data: Path, target: Path) -> Path:
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=1, max=512)
    example = _example()
    exported = torch.onnx.export(
        _torch_model(model),
        kwargs=example,
        dynamo=True,
        dynamic_shapes={name: {0: batch, 1: length} for name in example},
    )
    assert exported is not None
    exported.save(target / "float.onnx")
    quantize_dynamic(target / "float.onnx", target / "model.onnx", weight_type=QuantType.QInt8)
    return target / "model.onnx"


KINDS: dict[str, Callable[[Path, Path, Path], Path]] = {
    "openvino": _openvino,
    "openvino_int8": _openvino_int8,
    "onnxruntime_int8": _onnxruntime_int8,
}


if __name__ == "__main__":
    child_main(make)

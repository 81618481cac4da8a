"""The bridge on tiny random encoders: the graph's interface, its integers, its closeness to torch, its silence."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaForTokenClassification

from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import ExportError
from fastserve_neural_compressor import static_quantization
from fastserve_neural_compressor.weight_only import quantize_encoder

SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 3,
}
NAMES = ["input_ids", "attention_mask", "token_type_ids"]
TABLE = (200, 32)
SMALL = 20_000
"""Bytes: between the word table (25.6 kB) and the position table of these models."""

pytestmark = pytest.mark.slow  # each conversion takes seconds


class Bridged(NamedTuple):
    model: torch.nn.Module
    folder: Path
    warned: str
    handlers_kept: bool


def batches(names: list[str], count: int = 12, longest: int = 40) -> list[dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        shape = int(rng.integers(1, 5)), int(rng.integers(2, longest))
        batch = {"input_ids": rng.integers(5, 200, shape), "attention_mask": np.ones(shape, np.int64)}
        batch["token_type_ids"] = np.zeros(shape, np.int64)
        batch["attention_mask"][0, shape[1] // 2 + 1 :] = 0
        made.append({name: batch[name] for name in names})
    return made


def compiled(folder: Path) -> Any:
    import openvino

    return openvino.Core().compile_model(
        folder / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )


def constants(folder: Path, element: str) -> list[tuple[int, ...]]:
    import openvino

    graph = openvino.Core().read_model(folder / "openvino_model.xml")
    found = [op for op in graph.get_ops() if op.get_type_name() == "Constant"]
    return [tuple(op.shape) for op in found if op.get_output_element_type(0).get_type_name() == element]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Bridged:
    """One BERT taken over the bridge, and what that left behind."""
    torch.manual_seed(0)
    config = BertConfig(**SIZES, max_position_embeddings=64, attn_implementation="eager")  # as training builds it
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)  # random weights give logits too near zero to compare
    folder = tmp_path_factory.mktemp("bert")
    handlers, level = logging.getLogger().handlers[:], logging.root.manager.disable
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(static_quantization, "LARGE_EMBEDDING_BYTES", SMALL)
        static_quantization.quantize_static(model, batches(NAMES), folder)
    kept = handlers == logging.getLogger().handlers and level == logging.root.manager.disable
    return Bridged(model, folder, "".join(str(warning.message) for warning in caught), kept)


def test_interface_is_named_and_free(bert: Bridged) -> None:
    graph = compiled(bert.folder)
    assert [port.get_any_name() for port in graph.inputs] == NAMES
    assert [port.get_names() for port in graph.outputs] == [{"logits"}]
    assert all(size.is_dynamic for port in graph.inputs for size in port.get_partial_shape())


def batch_of(shape: tuple[int, int]) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(1)
    batch = {"input_ids": rng.integers(5, 200, shape), "attention_mask": np.ones(shape, np.int64)}
    batch["token_type_ids"] = np.zeros(shape, np.int64)
    batch["attention_mask"][-1, shape[1] // 2 + 1 :] = 0
    return batch


def assert_close(bert: Bridged, batch: dict[str, NDArray[Any]], found: NDArray[Any]) -> None:
    with torch.no_grad():
        expected = bert.model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits.numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 0.12 * np.abs(expected).max()


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (3, 17), (9, 64)])
def test_logits_are_close_to_torch(bert: Bridged, shape: tuple[int, int]) -> None:
    batch = batch_of(shape)
    assert_close(bert, batch, compiled(bert.folder)(batch)["logits"])


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_a_processor_without_vnni_answers_alike(bert: Bridged, tmp_path: Path, instructions: str) -> None:
    batch = batch_of((9, 64))
    np.savez(tmp_path / "batch.npz", **batch)
    code = (
        "import sys, numpy, openvino; model, batch, out = sys.argv[1:];"
        "run = openvino.Core().compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'});"
        "numpy.save(out, run(dict(numpy.load(batch)))['logits'])"
    )
    paths = [bert.folder / "openvino_model.xml", tmp_path / "batch.npz", tmp_path / "logits.npy"]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions}
    subprocess.run([sys.executable, "-c", code, *paths], env=environment, check=True)
    assert_close(bert, batch, np.load(paths[-1]))


def test_weights_and_word_table_are_int8(bert: Bridged) -> None:
    int8 = constants(bert.folder, "i8")
    assert TABLE in int8
    assert len([shape for shape in int8 if len(shape) == 2 and shape != TABLE]) == 2 * 6 + 2
    assert TABLE not in constants(bert.folder, "f32")
    layers = [op.get_rt_info() for op in compiled(bert.folder).get_runtime_model().get_ops()]
    runs = [rt["runtimePrecision"].astype(str) for rt in layers if rt["layerType"].astype(str) == "FullyConnected"]
    assert runs
    assert set(runs) <= {"u8", "i8"}


def test_attention_stays_in_one_piece(bert: Bridged) -> None:
    import openvino

    graph = openvino.Core().read_model(bert.folder / "openvino_model.xml")
    kinds = [op.get_type_name() for op in graph.get_ops()]
    assert kinds.count("ScaledDotProductAttention") == 2
    assert "Softmax" not in kinds


def test_model_is_not_changed(bert: Bridged) -> None:
    assert isinstance(bert.model.get_submodule("bert.embeddings.word_embeddings"), torch.nn.Embedding)
    assert not bert.model.training
    assert bert.model.config._attn_implementation == "eager"


def test_logging_state_comes_back(bert: Bridged) -> None:
    assert bert.handlers_kept
    assert bert.warned == ""


def test_again_it_is_quiet_and_gives_the_same_bytes(
    bert: Bridged, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_quantization, "LARGE_EMBEDDING_BYTES", SMALL)
    static_quantization.quantize_static(bert.model, batches(NAMES), tmp_path)
    assert capfd.readouterr() == ("", "")
    for name in ("openvino_model.xml", "openvino_model.bin"):
        assert (tmp_path / name).read_bytes() == (bert.folder / name).read_bytes()


def test_roberta_tokens_with_fp32_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_quantization, "LARGE_EMBEDDING_BYTES", SMALL)
    config = RobertaConfig(**{**SIZES, "num_hidden_layers": 1}, max_position_embeddings=34, pad_token_id=1)
    model = RobertaForTokenClassification(config).eval()
    names = ["input_ids", "attention_mask"]
    static_quantization.quantize_static(model, batches(names, longest=32), tmp_path, embeddings="fp32")
    assert TABLE in constants(tmp_path, "f32")
    longest = {name: np.full((1, 32), {"input_ids": 7, "attention_mask": 1}.get(name, 0)) for name in NAMES}
    assert compiled(tmp_path)(longest)["logits"].shape == (1, 32, 3)
    with pytest.raises(ValueError, match="has 33 tokens, but the model supports 32"):
        static_quantization.quantize_static(model, [{name: np.ones((1, 33), np.int64) for name in names}], tmp_path)


@pytest.mark.parametrize(
    ("family", "way"),
    [("DistilBert", "static"), ("DistilBert", "dynamic"), ("Electra", "static"), ("Roberta", "static"),
     ("DebertaV2", "dynamic")],
)  # fmt: skip
def test_other_families_answer_as_torch_does(family: str, way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 64, **SIZES}  # DistilBERT has names of its own
    config = getattr(transformers, f"{family}Config")(**sizes, pad_token_id=0, initializer_range=0.2)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    given = batches(NAMES[:2], longest=30)
    if way == "static":
        static_quantization.quantize_static(model, given, tmp_path)
    else:
        quantize_encoder(model, tmp_path)
    batch = {name: one for name, one in batch_of((3, 17)).items() if name != "token_type_ids"}
    run = compiled(tmp_path)
    if len(run.inputs) == 3:
        batch["token_type_ids"] = np.zeros((3, 17), np.int64)
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits.numpy()
    assert np.abs(run(batch)["logits"] - expected).max() < 0.12 * np.abs(expected).max()


def test_without_8_bit_units_stored_integers_are_floats_in_memory(
    bert: Bridged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_encoder(bert.model, tmp_path, embeddings="fp32")
    batch = batch_of((3, 17))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    for folder, folded in ((tmp_path, True), (bert.folder, False)):  # the second one quantizes its inputs too
        graph = read_model(folder)
        assert integer_constants(graph)
        engine = load_entry_point("fastserve.engines", "openvino")(folder, 1)
        assert bool(integer_constants(engine._graph)) != folded
        assert_close(bert, batch, engine.run(batch)["logits"])
        engine.close()


def read_model(folder: Path) -> Any:
    import openvino

    return openvino.Core().read_model(folder / "openvino_model.xml")


def integer_constants(graph: Any) -> list[Any]:
    """The 8-bit weights of linear layers; the small models' tables are floats."""
    constants = [op for op in graph.get_ops() if op.get_type_name() == "Constant" and len(op.shape) == 2]
    return [op for op in constants if op.get_output_element_type(0).get_type_name() in ("u8", "i8")]


class Branching(torch.nn.Module):
    """Looks at its values to decide what to do: torch.export refuses that."""

    config = BertConfig()

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 32)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.layer(input_ids.float()[..., None])
        return {"logits": hidden if input_ids.sum() > 3 else hidden * attention_mask[..., None]}


def test_unsupported_model_reports_why_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be quantized: ") as caught:
        static_quantization.quantize_static(Branching(), batches(["input_ids", "attention_mask"]), tmp_path)
    assert "\n" not in str(caught.value)
    assert "Check the logs" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="not 'int4'"):
        static_quantization.quantize_static(
            Branching(), batches(["input_ids", "attention_mask"]), Path(), embeddings="int4"
        )
    with pytest.raises(ValueError, match="empty"):
        static_quantization.quantize_static(Branching(), [], Path())
    with pytest.raises(ValueError, match="attention_mask"):
        static_quantization.quantize_static(Branching(), batches(["input_ids"]), Path())


FIRST_IMPORTS = """
import sys
from fastserve_core.processes import hide_package, suppress_library_output
from fastserve_neural_compressor import static_quantization
from fastserve_neural_compressor.weight_only import quantize_encoder
with suppress_library_output(), hide_package("openvino_telemetry"):
    import neural_compressor.torch.quantization
    import openvino.tools.ovc
assert not any(name.startswith("openvino_telemetry") for name in sys.modules), "telemetry was loaded"
"""


def test_first_imports_are_quiet_and_without_telemetry() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_IMPORTS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

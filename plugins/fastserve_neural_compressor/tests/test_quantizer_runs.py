"""Each method through the command line: what is made, that it answers, and what is said meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Cli
from fastserve_core.artifacts import load_artifact, read_json
from fastserve_core.inference import load_decoder, load_engine
from fastserve_core.tasks import SequenceChunk

pytestmark = pytest.mark.slow

OPTION = "compress.neural_compressor"
CHEAP = ("engine=openvino", "gate.enabled=false", f"{OPTION}.calibration_rows=16")


def stages(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(next(folder.glob("outputs/*/*/run.json")))["stages"]
    return found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["method=dynamic"], ""),
        # nothing is as good as more than is possible: every try is made, and the best one taken
        (["tolerable_loss=0"], "tuning accuracy"),
    ],
)
def test_a_classifier_is_quantized(
    options: list[str], said: str, cli: Cli, tiny_bert: Path, reviews: Path, tmp_path: Path, shared_home: Path
) -> None:
    given = [f"{OPTION}.{one}" for one in options]
    # every line is shown, however quick the machine is
    train = ("train.torch_ddp.epochs=1", "train.torch_ddp.lr=3e-3", "observe.progress.every_s=0.001")
    done = cli(
        "+plugin=[torch_ddp,neural_compressor,progress]",
        f"model={tiny_bert}",
        f"data={reviews}",
        *train,
        *CHEAP,
        *given,
        FASTSERVE_HOME=str(shared_home),  # both are of one trained model
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout + done.stderr
    trained, made = stages(tmp_path)
    assert made["status"] == "done"
    assert made["measures"]["quality"]["accuracy"] >= trained["measures"]["quality"]["accuracy"] - 0.1
    assert cli("predict", made["artifact"], "a wonderful film").returncode == 0


def test_without_8_bit_units_the_best_variant_is_published(
    cli: Cli, tiny_bert: Path, reviews: Path, tmp_path: Path
) -> None:
    done = cli(
        *("+plugin=neural_compressor", f"model={tiny_bert}", f"data={reviews}", *CHEAP),
        ONEDNN_MAX_CPU_ISA="AVX2",
    )
    assert done.returncode == 0, done.stderr
    made = load_artifact(Path(stages(tmp_path)[-1]["artifact"]))
    entry = made.manifest.lineage[-1]
    assert set(entry["variants"]) == {"static", "dynamic"}
    assert entry["variants"][entry["variant"]]["speed"] == 1.0
    assert f"{entry['variant']} is published" in done.stderr + done.stdout
    kinds = {node.get_type_name() for node in read_graph(made.folder).get_ops()}
    assert ("FakeQuantize" in kinds) == (entry["variant"] == "static")


def read_graph(folder: Path) -> Any:
    import openvino

    return openvino.Core().read_model(folder / "openvino_model.xml")


def assert_written_side_by_side(model: Path) -> None:
    """A server goes on with many texts at a time, with the logits of one pass over each."""
    texts = [[5, 6, 7, 8], [9, 10]]
    artifact = load_artifact(model)
    engine, stepper = load_engine(artifact, 1), load_decoder(artifact, 1, 1_000_000)
    alone = [engine.run({"input_ids": np.array([text])})["logits"][0, -1] for text in texts]
    together = stepper.step([SequenceChunk(text, 0, [place]) for place, text in enumerate(texts)])
    assert np.allclose(together, alone, atol=0.05 * np.abs(alone).max())


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
def test_a_language_model_is_quantized_and_writes(
    method: str, cli: Cli, reviews: Path, tmp_path: Path, shared_home: Path
) -> None:
    sizes = ("dim=64", "num_heads=2", "num_layers=2", "hidden_size=128", "vocab_size=400", "max_positions=64")
    done = cli(
        *("+plugin=[torch_ddp,neural_compressor]", "task=causal_lm", "task.max_length=32", f"data.train={reviews}"),
        *("model=gpt2", *(f"model.{one}" for one in sizes), "train.torch_ddp.epochs=1", "train.torch_ddp.lr=3e-3"),
        *(*CHEAP, f"{OPTION}.method={method}", f"{OPTION}.bits=4", f"{OPTION}.group_size=32"),
        FASTSERVE_HOME=str(shared_home),  # the methods start from one trained model
    )
    assert done.returncode == 0, done.stderr
    trained, made = stages(tmp_path)
    perplexities = [one["measures"]["quality"]["perplexity"] for one in (trained, made)]
    assert perplexities[1] < 1.1 * perplexities[0]
    floats, integers = (Path(one["artifact"]) for one in (trained, made))
    assert (floats / "model.safetensors").stat().st_size > 3 * (integers / "openvino_model.bin").stat().st_size
    assert_written_side_by_side(integers)
    written = cli("predict", made["artifact"], "the film is")
    assert written.returncode == 0 and written.stdout.strip()

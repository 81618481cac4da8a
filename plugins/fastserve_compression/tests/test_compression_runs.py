"""Whole runs: pruned and coded models are trained further, quantized, and refused with one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Cli
from fastserve_core.artifacts import load_artifact
from fastserve_core.inference import Predictor
from fastserve_core.models import list_components

pytestmark = pytest.mark.slow

SLIM = ["+plugin=[torch_ddp,prune,vector_quantize]", "gate.enabled=false"]
SHRINK = ["compress.vector_quantize.centroids=16", "compress.vector_quantize.min_rows=100"]
TRAIN = ["train.torch_ddp.epochs=3", "train.torch_ddp.lr=3e-3", "train.torch_ddp.batch_size=16"]


def stages(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest run's stages by plugin."""
    newest = max(folder.glob("outputs/*/*/run.json"), key=lambda path: path.stat().st_mtime)
    return {one["plugin"]: one for one in json.loads(newest.read_text())["stages"]}


def test_a_slim_model_is_trained_further_and_quantized(
    cli: Cli, tiny_bert: Path, reviews: Path, tmp_path: Path
) -> None:
    done = cli(*SLIM, *SHRINK, *TRAIN, f"model={tiny_bert}", f"data={reviews}")
    assert done.returncode == 0, done.stderr + done.stdout
    first = stages(tmp_path)
    sizes = [first[name]["measures"]["size_bytes"] for name in ("torch_ddp", "prune", "vector_quantize")]
    assert sizes[0] > sizes[1] > sizes[2]
    slim = first["vector_quantize"]["artifact"]
    further = cli("+plugin=[torch_ddp,neural_compressor]", *SLIM[1:], f"model={slim}", f"data={reviews}", *TRAIN,
                  "compress.neural_compressor.method=static",
                  "compress.neural_compressor.calibration_rows=16")  # fmt: skip
    assert further.returncode == 0, further.stderr + further.stdout
    second = stages(tmp_path)
    model = load_artifact(Path(second["torch_ddp"]["artifact"]))
    torch_model, engine = Predictor(model), Predictor(Path(second["neural_compressor"]["artifact"]))
    kinds = [one["kind"] for one in list_components(torch_model.task.build(model.folder).config)]  # type: ignore[attr-defined]
    assert kinds == ["pruned", "product_quantized"]
    texts = ["a wonderful film", "what a dreadful story", "it was brilliant , truly superb number 7"]
    scores = [[one["scores"]["positive"] for one in each.predict(texts)] for each in (torch_model, engine)]
    assert np.abs(np.subtract(*scores)).max() < 0.1
    assert second["torch_ddp"]["measures"]["quality"]["accuracy"] > 0.8


def test_the_same_command_elsewhere_gives_the_same_bytes(
    cli: Cli, tiny_bert: Path, reviews: Path, tmp_path: Path
) -> None:
    digests = []
    for name in ("one", "two"):
        command = [SLIM[0].replace("torch_ddp,", ""), *SLIM[1:], *SHRINK, f"model={tiny_bert}", f"data={reviews}"]
        done = cli(*command, FASTSERVE_HOME=str(tmp_path / name))
        assert done.returncode == 0, done.stderr + done.stdout
        digests.append([stages(tmp_path)[plugin]["digest"] for plugin in ("prune", "vector_quantize")])
    assert digests[0] == digests[1]


def test_masks_and_layers_go_together(cli: Cli, tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    options = ["compress.prune.layers=[0]", "compress.prune.pattern=2:4", "compress.prune.uniform=true"]
    done = cli("+plugin=prune", "gate.enabled=false", f"model={tiny_bert}", f"data={reviews}", *options)
    assert done.returncode == 0, done.stderr + done.stdout
    artifact = load_artifact(Path(stages(tmp_path)["prune"]["artifact"]))
    model: Any = Predictor(artifact).task.build(artifact.folder)
    assert model.config.num_hidden_layers == 1
    weight = model.get_submodule("bert.encoder.layer.0.intermediate.dense").weight
    assert torch.all((weight.reshape(len(weight), -1, 4) != 0).sum(-1) <= 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["+plugin=prune", "compress.prune.layers=[7]"], "compress.prune.layers: layer 7 does not exist"),
        (["+plugin=vector_quantize"], "no embedding table of 1024 rows or more"),
        (["+plugin=prune", "compress.prune.neuron=0.1"], "did you mean 'neuron_ratio'"),
    ],
)
def test_unsupported_chains_are_one_message(
    cli: Cli, tiny_bert: Path, reviews: Path, arguments: list[str], said: str
) -> None:
    done = cli(*arguments, f"model={tiny_bert}", f"data={reviews}")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr

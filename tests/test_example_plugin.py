"""The example package and the skeletons of `new-plugin`, installed and tested in an environment of their own.

The example's own tests are run as `docs/write-a-plugin.md` says, with that page's blocks.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from environments import Environment

from fastserve_core.artifacts import load_artifact
from fastserve_core.plugins import CONFIG_SECTIONS

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "fastserve-drop-layers"

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the example package, installed from a copy of it."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "package")
    environment = Environment(folder / "environment")
    environment.install(folder / "package", cwd=folder)
    return environment


def test_the_example_is_installed_there_and_not_here(example: Environment, tmp_path: Path) -> None:
    found = {one["name"]: one for one in json.loads(example.run("fastserve_core", "plugins", "--json", cwd=tmp_path))}
    assert found["drop_layers"]["state"] == "ready"
    assert (found["drop_layers"]["stage"], found["drop_layers"]["version"]) == ("compress", "0.1.0")
    assert (example.packages / "fastserve_drop_layers").is_dir()


def test_the_example_takes_its_place_in_a_run(
    example: Environment, tmp_path: Path, tiny_bert: Path, reviews: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    arguments = [f"model={tiny_bert}", f"data={reviews}", "compress.drop_layers.keep=1", "gate.enabled=false"]
    arguments.append("engine=torch")
    chosen = "+plugin=[torch_ddp,drop_layers]"
    composed = example.run("fastserve_core", chosen, *arguments, "--cfg", "job", "-p", "compress", cwd=tmp_path)
    assert composed.splitlines()[1:] == ["drop_layers:", "  keep: 1", "  which: first"]
    example.run("fastserve_core", chosen, *arguments, "train.torch_ddp.epochs=1", cwd=tmp_path)
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/*/run.json"))
    before, after = record["stages"]
    assert [after["stage"], after["plugin"], after["status"]] == ["compress", "drop_layers", "done"]
    assert after["measures"]["size_bytes"] < before["measures"]["size_bytes"]
    assert record["best"] == after["artifact"]
    artifact = load_artifact(Path(after["artifact"]), verify=True)
    assert artifact.form == "trainable"
    assert artifact.manifest.lineage[-1]["options"] == {"keep": 1, "which": "first"}
    models = [AutoModelForSequenceClassification.from_pretrained(one["artifact"]) for one in (before, after)]
    assert [len(model.bert.encoder.layer) for model in models] == [2, 1]
    assert models[1].config.id2label == {0: "negative", 1: "positive"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compress.drop_layers.keep=0"], "compress.drop_layers.keep must be at least 1, not 0"),
        (["compress.drop_layers.which=last"], "must be one of first, spread, not 'last'"),
        (["compress.drop_layers.kept=1"], "no option 'kept'; did you mean 'keep'"),
        (["compress.drop_layers.keep=2"], "the model has 2 layers"),
    ],
)
def test_the_example_refuses_unsupported_options(
    example: Environment, tmp_path: Path, tiny_bert: Path, reviews: Path, arguments: list[str], said: str
) -> None:
    command = ["fastserve_core", "+plugin=drop_layers", f"model={tiny_bert}", f"data={reviews}", *arguments]
    done = subprocess.run([example.python, "-m", *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# -- the skeletons -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory: pytest.TempPathFactory) -> tuple[Environment, Path]:
    """A package for each stage, as `new-plugin` writes it, all installed in one environment."""
    folder = tmp_path_factory.mktemp("skeletons")
    environment = Environment(folder / "environment")
    for stage in CONFIG_SECTIONS:
        environment.run("fastserve_core", "new-plugin", f"my-{stage}", "--stage", stage, cwd=folder)
    environment.install(*(folder / f"fastserve-my-{stage}" for stage in CONFIG_SECTIONS), cwd=folder)
    return environment, folder


@pytest.mark.parametrize("stage", CONFIG_SECTIONS)
def test_a_skeleton_meets_the_contract(skeletons: tuple[Environment, Path], stage: str) -> None:
    environment, folder = skeletons
    assert " passed" in environment.run("pytest", "-q", "-p", "no:cacheprovider", f"fastserve-my-{stage}", cwd=folder)


def test_the_skeletons_run(skeletons: tuple[Environment, Path], tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    """What the skeletons do by way of example works: together in one run, and with the built-in trainer."""
    environment, _ = skeletons
    arguments: list[Any] = [f"model={tiny_bert}", f"data={reviews}", "gate.enabled=false", "engine=torch"]
    arguments.append("train.torch_ddp.epochs=1")
    plugins = "+plugin=[my_tune,torch_ddp,my_compress,my_observe]"
    assert "my_observe: compress took" in environment.run("fastserve_core", plugins, *arguments, cwd=tmp_path)
    environment.run("fastserve_core", "+plugin=[my_train,my_compress]", *arguments[:4], cwd=tmp_path)
    first, second = (json.loads(path.read_text()) for path in sorted(tmp_path.glob("outputs/*/*/run.json")))
    assert [one["plugin"] for one in first["stages"]] == ["my_tune", "torch_ddp", "my_compress"]
    assert [one["status"] for one in first["stages"]] == ["done"] * 3
    assert [one["plugin"] for one in second["stages"]] == ["my_train", "my_compress"]
    assert [one["status"] for one in second["stages"]] == ["done"] * 2


def test_the_skeleton_of_a_server_answers(
    skeletons: tuple[Environment, Path], tmp_path: Path, tiny_bert: Path, reviews: Path
) -> None:
    environment, _ = skeletons
    arguments = ["+plugin=[torch_ddp,my_serve]", f"model={tiny_bert}", f"data={reviews}", "train.torch_ddp.epochs=1"]
    arguments.append("engine=torch")
    done = subprocess.run(
        [environment.python, "-m", "fastserve_core", *arguments],
        cwd=tmp_path,
        input="a wonderful film\n",
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "'label': " in done.stdout

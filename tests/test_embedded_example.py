"""The C program of docs/examples/embedded: it is built, and labels token ids as Python does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "embedded"
LABELS = ("negative", "positive")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("make") or not shutil.which("cc"), reason="no C compiler"),
    pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    command = ["make", f"PYTHON={sys.executable}", "CFLAGS=-Wall -Wextra -Wpedantic -Werror"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / "classify"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A model with weights large enough to give both labels."""
    import torch

    from fastserve_core.export import load_format
    from fastserve_engines.hugging_face import load_model

    folder, model = tmp_path_factory.mktemp("exported"), load_model(tiny_bert)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5 if weight.ndim > 1 else 1)
    export: Any = load_format("openvino", model)
    export.write(export.module, folder)
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    return folder


def classify(program: Path, folder: Path, tokens: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, folder, tokens], capture_output=True, text=True, timeout=120)


def test_it_labels_token_ids_as_python_does(program: Path, exported: Path, tmp_path: Path) -> None:
    from fastserve_engines.openvino_engine import OpenVINOEngine

    draw, engine = np.random.default_rng(0), OpenVINOEngine(exported, 1)
    texts = [draw.integers(5, 60, (1, length)) for length in (1, 2, 3, 5, 8, 13, 21, 34) for _ in range(4)]
    logits = [engine.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})["logits"][0] for ids in texts]
    (tmp_path / "tokens.txt").write_text("\n".join(" ".join(map(str, ids[0])) for ids in texts))
    done = classify(program, exported, tmp_path / "tokens.txt")
    assert done.returncode == 0, done.stderr
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert [label for label, _ in found] == [LABELS[one.argmax()] for one in logits]
    assert {label for label, _ in found} == set(LABELS)
    shares = [1 / np.exp(one - one.max()).sum() for one in logits]
    assert np.allclose([float(share) for _, share in found], shares, atol=1e-3)


@pytest.mark.parametrize(
    ("line", "said"), [("2 10 x 3", "this is no token id"), ("2 -1 3", "is not negative"), ("2 " * 600, "more tokens")]
)
def test_a_file_that_is_not_text_is_reported(
    program: Path, exported: Path, tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "tokens.txt").write_text(line)
    done = classify(program, exported, tmp_path / "tokens.txt")
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_a_folder_without_a_model_is_reported(program: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text("2 3")
    assert "labels.txt: cannot be opened" in classify(program, tmp_path, tmp_path / "tokens.txt").stderr
    shutil.copyfile(exported / "labels.txt", tmp_path / "labels.txt")
    done = classify(program, tmp_path, tmp_path / "tokens.txt")
    assert done.returncode == 1
    assert "openvino_model.xml" in done.stderr

"""The Python object: as its users write it, and what it says to wrong input."""

from __future__ import annotations

import json
import random
import urllib.request
from pathlib import Path

import pytest

from conftest import BAD, GOOD, review
from fastserve import FastServe
from fastserve_core.errors import ArtifactError, DataError, OptionError, PlanError, UnknownNameError


def labelled(rows: int, seed: int) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    pairs = [review(draw) for _ in range(rows)]
    return [text for text, _ in pairs], [label for _, label in pairs]


def plain(rows: int, seed: int) -> tuple[list[str], list[str]]:
    """What even a model from scratch learns in twenty steps: six words of one kind."""
    draw = random.Random(seed)
    labels = [draw.choice(("negative", "positive")) for _ in range(rows)]
    return [" ".join(draw.choices(GOOD if one == "positive" else BAD, k=6)) for one in labels], labels


@pytest.mark.slow(90)
@pytest.mark.timeout(1200)
def test_it_runs_as_the_documents_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_data, train_labels = plain(64, 1)
    dev_data, dev_labels = plain(24, 2)
    test_data, test_labels = plain(24, 3)

    config = {"model": "bert", "dim": 768, "num_heads": 12, "hidden_size": 3072, "num_labels": 2}
    fs = FastServe(config | {"num_layers": 1, "engine": "torch"})  # README's run is on all engines
    fs.train(train_data, train_labels, dev_data, dev_labels, epochs=10, batch_size=32)
    fs.tune(dev_data, dev_labels, steps=500, patience=3)
    fs.compress(model="bert", filename="compressed_bert_model")
    server = fs.serve(model="compressed_bert_model", port=8888)  # returns; the server runs in the background
    predictions = fs.predict(test_data)

    try:
        right = sum(one["label"] == label for one, label in zip(predictions, test_labels, strict=True))
        assert right / len(test_labels) > 0.8
        request = urllib.request.Request(
            "http://127.0.0.1:8888/predict",
            json.dumps({"inputs": test_data[:3]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            served = json.loads(answer.read())["predictions"]
        assert [one["label"] for one in served] == [one["label"] for one in predictions[:3]]
        assert (tmp_path / "compressed_bert_model" / "fastserve.json").is_file()
        assert server.url == "http://127.0.0.1:8888"
    finally:
        server.stop()


@pytest.mark.slow
def test_each_verb_returns_its_result_and_the_others_continue_from_it(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    texts, labels = labelled(200, 4)
    fs = FastServe({"model": str(tiny_bert), "seed": 3, "gate": {"enabled": False}, "engine": "torch"}, show=False)
    trained = fs.train(texts, labels, epochs=8, lr=3e-3, batch_size=16)
    assert (trained.status, trained.options["epochs"]) == ("done", 8)
    assert trained.measures["quality"]["accuracy"] > 0.8
    assert fs.train(texts, labels, epochs=8, lr=3e-3, batch_size=16).status == "reused"
    compressed = fs.compress(filename="small", calibration_rows=16, method="static")
    assert compressed.artifact == tmp_path / "small"
    assert capsys.readouterr().out == ""
    loaded = FastServe.load("small", show=False)
    assert loaded.predict(texts[:5]) == fs.predict(texts[:5])
    assert loaded.predict(texts[0]) == loaded.predict({"text": texts[0]}) == loaded.predict([texts[0]])
    with fs.serve(port=0) as server, urllib.request.urlopen(f"{server.url}/v2/health/ready", timeout=30) as answer:
        assert answer.status == 200
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").touch()
    with pytest.raises(ArtifactError, match="is not an artifact: it is not replaced"):
        fs.compress(filename="full", calibration_rows=16, method="static")
    assert (tmp_path / "full" / "precious.txt").is_file()


def test_wrong_configs_are_reported(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no option 'dims'; did you mean 'dim'"):
        FastServe({"model": "bert", "dims": 64})
    with pytest.raises(UnknownNameError, match="no model named 'brt'; did you mean 'bert'"):
        FastServe({"model": "brt"})
    with pytest.raises(OptionError, match="must be a multiple of model.num_heads"):
        FastServe({"model": "bert", "dim": 10, "num_heads": 3})
    with pytest.raises(UnknownNameError, match="no task named 'classify'"):
        FastServe({"task": "classify"})
    with pytest.raises(OptionError, match=r"gate.min_speedup"):
        FastServe({"gate": {"min_speedup": -1}})


def test_verbs_out_of_order_and_wrong_data_are_reported(tiny_bert: Path) -> None:
    fs = FastServe({"model": str(tiny_bert)}, show=False)
    with pytest.raises(PlanError, match="call train first"):
        fs.tune(["x"], ["y"])
    with pytest.raises(PlanError, match="call train first"):
        fs.compress()
    with pytest.raises(PlanError, match="no trained model yet"):
        fs.predict(["x"])
    with pytest.raises(DataError, match="2 inputs but 1 labels"):
        fs.train(["a", "b"], ["x"])
    with pytest.raises(DataError, match="no labels"):
        fs.train(["a", "b"])
    with pytest.raises(DataError, match=r"the data for train must be a list .* not a single value \(str\)"):
        fs.train("good", ["a", "b", "a", "b"])
    with pytest.raises(DataError, match="the labels for validation must be a list"):
        fs.train(["good", "bad"], ["a", "b"], ["fine", "poor"], "ab")
    with pytest.raises(DataError, match=r"not a single value \(dict\)"):
        fs.train({"text": ["good", "bad"], "label": ["a", "b"]})
    with pytest.raises(OptionError, match="no option 'epoch'; did you mean 'epochs'"):
        fs.train(["good", "bad"] * 20, ["a", "b"] * 20, epoch=1)


def test_labels_that_are_numbers_are_kept_as_text(tiny_bert: Path, tmp_path: Path) -> None:
    fs = FastServe({"model": str(tiny_bert), "num_labels": 3, "home": str(tmp_path)}, show=False)
    texts, _ = labelled(60, 5)
    with pytest.raises(Exception, match="num_labels is 3, but the training data has 2 labels: 0, 1"):
        fs.train(texts, [number % 2 for number in range(60)])

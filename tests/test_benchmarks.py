"""The trainer's benchmark: its parts run on a small model, and its figures are worked out from what they give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions, ModelSpec
from fastserve_core.errors import OptionError


@pytest.fixture
def bench(part: Any, tmp_path: Path) -> Any:
    store = Store(tmp_path / "store")
    return part("training.workload").Bench(store, tmp_path / "scratch", cores=1, repeats=1, profiled_steps=2)


@pytest.fixture
def work(part: Any, bench: Any, tiny_bert: Path, reviews: Path) -> Any:
    spec = ModelSpec("checkpoint", "tiny", str(tiny_bert))
    return part("training.workload").compose(bench.store, DataOptions(train=str(reviews)), spec)


def outcome(part: Any, rate: float, accuracy: float = 0.5) -> Any:
    return part("training.runs").Outcome(rate, 10 * rate, accuracy, 5, 1.0, 0.0, 1000)


def test_every_training_has_each_seed_once_and_none_is_always_first(part: Any) -> None:
    calls: list[tuple[str, int]] = []

    def noting(name: str) -> Any:
        return lambda seed: calls.append((name, seed)) or outcome(part, seed + 1)

    found = part("training.runs").in_turn("x", {name: noting(name) for name in "abc"}, [0, 1, 2])
    assert [one.samples_per_s for one in found["b"]] == [1, 2, 3]
    assert [name for name, _ in calls[::3]] == ["a", "b", "c"]
    assert len(set(calls)) == 9


def test_a_ratio_is_that_of_the_same_round(part: Any) -> None:
    runs = part("training.runs")
    ours, others = ([outcome(part, rate) for rate in rates] for rates in ((10, 100, 60), (5, 25, 20)))
    assert runs.ratio(ours, others) == 3.0
    mean, deviation = runs.accuracy([outcome(part, 1, share) for share in (0.8, 0.9)])
    assert (round(mean, 6), round(deviation, 3)) == (85.0, 7.071)


def test_the_headline_is_against_the_peers_best_accuracy(
    part: Any, bench: Any, work: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speed = part("training.speed")
    rates = {"hf_default": (50, 0.86), "hf_best": (150, 0.85), "ours": (300, 0.85), "ours_one_rank": (270, 0.9),
             "ours_by_tokens": (400, 0.8)}  # fmt: skip
    found = {name: [outcome(part, *figures)] for name, figures in rates.items()}
    monkeypatch.setattr(part("training.workload").Bench, "reviews", lambda self: work)
    monkeypatch.setattr(speed, "in_turn", lambda name, runs, seeds: {one: found[one] for one in runs})
    result = speed.speed(bench)
    assert {name: result[name] for name in ("vs_hf_default", "vs_hf_best", "accuracy_gap")} == {
        "vs_hf_default": 6.0, "vs_hf_best": 2.0, "accuracy_gap": 1.0,
    }  # fmt: skip
    monkeypatch.setattr(speed, "missing_packages", lambda: ["accelerate"])
    capsys.readouterr()
    assert "vs_hf_best" not in speed.speed(bench)
    assert "missing here: it needs accelerate" in capsys.readouterr().out


def test_long_texts_are_joined_from_reviews_of_one_label(part: Any, work: Any) -> None:
    made = list(part("training.workload").joined(work.data, 60))
    assert made and all(len(text.split()) >= 60 for text, _ in made)
    tone = {"positive": "wonderful", "negative": "dreadful"}
    assert {label for text, label in made if tone[label] in text} == set(tone)
    assert not [text for text, label in made if tone[{"positive": "negative", "negative": "positive"}[label]] in text]


def test_a_section_that_fails_is_named_and_the_others_run(
    part: Any, bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(bench: Any) -> Any:
        raise OptionError("no such rows")

    parts = {"one": failing, "two": lambda bench: {"figure": 2}}
    result = part("sections").run(parts, ["one", "two"], bench, tmp_path / "out.json")
    assert result["failed"] == {"one": "no such rows"} and result["figure"] == 2
    assert json.loads((tmp_path / "out.json").read_text()) == result
    monkeypatch.setattr(part("train"), "SECTIONS", parts)
    with pytest.raises(SystemExit):
        part("train").arguments(["--only", "two,three"])
    assert "no section is called three: choose of one, two" in capsys.readouterr().err


@pytest.mark.slow
def test_ours_and_the_peer_train_on_the_same_rows(part: Any, bench: Any, work: Any) -> None:
    runs = part("training.runs")
    common = {"per_device_train_batch_size": 32, "num_train_epochs": 1, "learning_rate": 1e-3}
    for train in (
        runs.ours(bench, work, lr=1e-3),
        runs.hugging_face(bench, work, bf16=True, train_sampling_strategy="group_by_length", **common),
    ):
        found = train(0)
        assert found.steps == -(-work.rows // 32)
        assert found.samples_per_s > 0 and found.tokens_per_s > 10 * found.samples_per_s
        assert 0 < found.held_up_s < found.seconds or found.held_up_s == 0
        assert 0 <= found.accuracy <= 1 and found.peak_memory_bytes > 100e6


@pytest.mark.slow
def test_the_parts_of_a_step_make_up_its_time(part: Any, bench: Any, work: Any) -> None:
    found = part("training.limit").measure(replace(bench, profiled_steps=3), work, 1)
    assert sum(found["parts"].values()) == pytest.approx(1, abs=0.01)
    assert all(share >= -0.01 for share in found["parts"].values())
    assert found["parts"]["products"] > 0 and found["parts"]["the optimizer"] > 0
    assert 0 < found["step_rate"] < found["product_rate"]

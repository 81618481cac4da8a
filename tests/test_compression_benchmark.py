"""The compression benchmark: its parts run on a small model, and its figures are worked out from what they give."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def made(part: Any, sizes: tuple[int, int], qualities: tuple[float, float]) -> Any:
    return part("compression.chains").Made(Path("a"), Path("b"), sizes, qualities, ())


def test_the_figures_are_means_over_seeds_and_ratios_to_torch(part: Any) -> None:
    chains = part("compression.chains")
    two = [made(part, (100, 10), (0.90, 0.89)), made(part, (100, 5), (0.80, 0.81))]
    found = chains.figures(two, {"per_s": 100.0, "ms": 10.0}, {"per_s": 1250.0, "ms": 2.0})
    assert found == {"size_ratio": 15.0, "throughput_ratio": 12.5, "latency_ratio": 5.0, "quality_drop": 0.0}
    assert chains.mean_and_spread([one.drop for one in two]) == "0.00 ± 1.41"
    assert chains.mean_and_spread([1.0]) == "1.00"


def test_the_held_out_score_counts_each_row_once(part: Any) -> None:
    measures = {"quality_validation": {"f1": 0.8}, "quality": {"f1": 0.5}}
    score = part("compression.chains").held_out(measures, {"validation": 100, "test": 300}, "f1")
    assert score == pytest.approx(0.575)


def test_ours_is_held_against_the_fastest_of_the_others_at_each_shape(part: Any) -> None:
    times = {"ours": [2.0, 10.0], "a": [4.0, 9.0], "b": [3.0, 12.0], "never asked": [0.1, 0.1]}
    versus = part("compression.speed").versus
    assert versus(times, "ours", ("a", "b", "missing")) == 0.9
    assert versus(times, "ours", ("missing",)) is None


def test_each_takes_its_turn_and_none_is_always_first(part: Any) -> None:
    order: list[str] = []

    def work(name: str) -> Any:
        return lambda: order.append(name) or time.sleep(0.001)

    found = part("compression.grid").in_turn({name: work(name) for name in "abc"}, rounds=3)
    assert {name: len(times) for name, times in found.items()} == {"a": 3, "b": 3, "c": 3}
    assert "".join(order) == "aabbcc" + "bbccaa" + "ccaabb"


def test_sentences_are_read_from_conll(part: Any, tmp_path: Path) -> None:
    path = tmp_path / "some.conll"
    path.write_text("I\tO\nlive\tO\nin\tO\nOslo\tB-LOC\n\n\nYes\tO\n\t\nNo\tO\n", encoding="utf-8")
    assert list(part("compression.tagger").sentences(path)) == [
        (["I", "live", "in", "Oslo"], ["O", "O", "O", "B-LOC"]),
        (["Yes"], ["O"]),
        (["No"], ["O"]),
    ]


def test_arguments_that_cannot_be_are_refused(part: Any, capsys: pytest.CaptureFixture[str]) -> None:
    compress = part("compress")
    assert compress.arguments(["--conll", "a,b,c", "--seeds", "0,2"]).seeds == (0, 2)
    with pytest.raises(SystemExit):
        compress.arguments(["--only", "encoder,nothing"])
    assert "no section is called nothing: choose of encoder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        compress.arguments(["--conll", "a,b"])


@pytest.mark.slow
def test_a_chain_is_timed_against_handmade_models(
    part: Any, tmp_path: Path, tiny_bert: Path, reviews: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chains, speed = part("compression.chains"), part("compression.speed")
    bench = part("compression.setting").Bench(tmp_path / "home", tmp_path, 1, (0,), epochs=1, rounds=3)
    source = [f"data={reviews}", f"model={tiny_bert}"]
    chain = chains.make(bench, "int8", 0, source)
    assert [name for name, _, _ in chain.stages] == ["torch_ddp", "neural_compressor"]
    assert 0 <= chain.qualities[0] <= 1
    data = chains.data_of(bench, chain.original)
    over_texts = speed.texts(bench, {"int8": chain}, data)
    assert set(over_texts) == {"torch fp32 eager", "ours, int8"}
    assert all(one["per_s"] > 0 and one["ms"] > 0 for one in over_texts.values())
    hand = speed.handmade(bench, chain.original, data)
    assert "openvino" in hand
    run = part("compression.grid").LOADERS["openvino"](Path(hand["openvino"]["path"]), 1)
    inputs = {name: np.ones((2, 5), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    assert next(iter(run(inputs).values())).shape == (2, 2)

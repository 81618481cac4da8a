"""The benchmark of the tasks: its scorers follow the published rules, and its sources and summary are right."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import StageError


def test_answers_are_scored_by_the_rules_of_squad(part: Any) -> None:
    score = part("tasks.scorers").score_answers
    assert score(["The Cat!"], [["a cat", "dog"]]) == {"em": 1.0, "f1": 1.0}
    assert score(["cat sat"], [["the cat sat down"]]) == {"em": 0.0, "f1": pytest.approx(0.8)}
    assert score([""], [["cat"]]) == {"em": 0.0, "f1": 0.0}
    assert score(["北京市"], [["北京"]])["f1"] == pytest.approx(0.8)


def test_relations_are_scored_without_other_and_with_their_direction(part: Any) -> None:
    """Cause: 1 right of 2 guessed and 2 true, so 1/2; Part: 1 right of 1 guessed and 2 true, so 2/3."""
    truth = ["Cause(e1,e2)", "Cause(e2,e1)", "Part(e1,e2)", "Part(e1,e2)", "Other"]
    guesses = ["Cause(e1,e2)", "Cause(e1,e2)", "Part(e1,e2)", "Other", "Other"]
    assert part("tasks.scorers").score_relations(guesses, truth) == {"macro_f1": pytest.approx((1 / 2 + 2 / 3) / 2)}


def test_entities_are_marked_as_in_the_files_of_semeval(part: Any) -> None:
    row = {"text": "the audits were about waste", "head": [22, 27], "tail": [4, 10]}
    assert part("tasks.scorers").mark_entities(row) == "the <e2>audits</e2> were about <e1>waste</e1>"


def test_texts_out_of_scope_are_scored_by_a_threshold(part: Any) -> None:
    found = part("tasks.scorers").score_scope(["a", "b", "a", "a"], [0.9, 0.4, 0.3, 0.8], ["a", "b", "oos", "oos"], 0.5)
    assert found == {"in_scope": 0.5, "oos_recall": 0.5, "auroc": 0.75}


def test_whole_sentences_have_their_intent_and_all_slots_right(part: Any) -> None:
    slots, true_slots = [["B-x", "O"], ["O", "O"], ["B-x", "O"]], [["B-x", "O"], ["O", "B-x"], ["B-x", "O"]]
    found = part("tasks.scorers").score_intents(["i", "i", "j"], slots, ["i", "i", "i"], true_slots)
    assert found == {
        "intent": pytest.approx(2 / 3), "slot_f1": pytest.approx(0.8), "whole": pytest.approx(1 / 3)
    }  # fmt: skip


def test_no_paragraph_of_questions_is_in_both_splits(part: Any, tmp_path: Path) -> None:
    paragraphs = [{"context": f"text {number}", "qas": []} for number in range(10)]
    (tmp_path / "xquad.en.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    written = part("tasks.sources").xquad_en(tmp_path, tmp_path)
    contexts = [
        [one["context"] for one in json.loads(Path(option.partition("=")[2]).read_text())["data"][0]["paragraphs"]]
        for option in written
    ]
    assert [len(one) for one in contexts] == [8, 2]
    assert not set(contexts[0]) & set(contexts[1])


def test_few_shots_are_as_many_of_each_class_and_depend_on_the_seed(part: Any, tmp_path: Path) -> None:
    rows = [f"text {number},{'abc'[number % 3]}" for number in range(30)]
    (tmp_path / "banking77_train.csv").write_text("text,category\n" + "\n".join(rows) + "\n")
    draws = []
    for seed in (0, 1):
        paths = [Path(one.partition("=")[2]) for one in part("tasks.sources").few_shot(2, seed, tmp_path, tmp_path)[:2]]
        splits = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
        for split in splits:
            assert sorted(row["category"] for row in split) == list("aabbcc")
        texts = [{row["text"] for row in split} for split in splits]
        assert not texts[0] & texts[1]
        draws.append(texts[0])
    assert draws[0] != draws[1]


def test_the_first_tag_of_a_known_word_is_the_baseline_of_tags(part: Any) -> None:
    train = [{"tokens": ["Ann", "in", "Oslo"], "tags": ["B-PER", "O", "B-LOC"]}]
    test = [{"tokens": ["ann", "of", "Oslo"], "tags": ["B-PER", "O", "B-LOC"]}]
    assert part("tasks.baselines").BASELINES["tags"](train, test) == {"f1": 1.0}


def test_a_summary_has_means_over_the_seeds_and_ratios_of_the_same_seed(part: Any) -> None:
    scores = part("tasks.setting").Scores
    found = {
        "ours": [scores({"f1": 0.8}, rate=30), scores({"f1": 0.9}, rate=80)],
        "reference": [scores({"f1": 0.7}, rate=10), scores({"f1": 0.7}, rate=20)],
        "compressed": [scores({"f1": 0.8}, speedup=2, size_ratio=4), scores({"f1": 0.8}, speedup=3, size_ratio=4)],
        "baseline": [scores({}), scores({})],
        "setfit": [scores({}), scores({})],
    }
    assert part("applications").summarize(found) == {
        "f1": 0.85, "reference": {"f1": 0.7}, "compressed": {"f1": 0.8}, "baseline": {}, "setfit": {},
        "rate_ratio": 3.5, "speedup": 2.5, "size_ratio": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [(["nothing"], "no task is called nothing"), (["atis", "--data", "/nowhere"], "must be the folder")],
)
def test_wrong_arguments_are_refused(
    part: Any, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        part("applications").parse(given)
    assert message in capsys.readouterr().err


def test_scores_are_read_from_the_record_of_a_run(part: Any, tmp_path: Path) -> None:
    from fastserve_core.artifacts import Manifest, write_manifest

    lineage = ({"stage": "train", "costs": {"seconds": 20.0}},)
    write_manifest(tmp_path, Manifest("t", {}, (), {"form": "trainable", "engine": "torch"}, lineage, {}))
    trained = {"quality": {"em": 0.5, "f1": 0.7}, "size_bytes": 400}
    compressed = {"quality": {"em": 0.4, "f1": 0.6}, "size_bytes": 100, "speedup": {"latency": 1.5}}
    stages = [
        {"stage": "train", "artifact": str(tmp_path), "options": {"epochs": 2}, "measures": trained},
        {"stage": "compress", "measures": compressed},
    ]
    record = {"data": {"rows": {"train": 100}}, "stages": stages}
    ours, small = part("tasks.ours").read_scores(record, {"exact": "em"})
    assert (ours.scores, ours.rate) == ({"exact": 0.5}, 10.0)
    assert (small.scores, small.speedup, small.size_ratio) == ({"exact": 0.4}, 1.5, 4.0)
    with pytest.raises(StageError, match="train has no score 'exact_match' but em, f1"):
        part("tasks.ours").read_scores(record, {"exact": "exact_match"})


def test_the_metrics_of_each_task_are_among_its_scores(part: Any) -> None:
    for name, application in part("tasks.catalog").APPLICATIONS.items():
        known = load_entry_point("fastserve.tasks", application.task).metrics
        assert set(application.metrics.values()) <= set(known), name


def test_the_reference_learns_and_scores_the_answers_of_prepared_rows(part: Any, tiny_bert: Path) -> None:
    import numpy as np
    from transformers import AutoTokenizer

    reference, tokenizer = part("tasks.question_reference"), AutoTokenizer.from_pretrained(tiny_bert)
    context = "the film is wonderful and the story is moving"
    rows = [{"question": "what", "context": context, "answers": [{"text": "wonderful", "start": 12}]}]
    (learnt,) = reference.encode_questions(tokenizer, rows, 256)
    windows = reference.encode_contexts(tokenizer, rows, 256)
    first, last = (windows[0]["offsets"][learnt[name]] for name in ("start_positions", "end_positions"))
    assert (first[0], last[1]) == (12, 21)
    logits = np.zeros((2, 1, 256))
    logits[0, 0, learnt["start_positions"]] = logits[1, 0, learnt["end_positions"]] = 5
    assert reference.score_question_outputs(*logits, windows, rows) == {"em": 1.0, "f1": 1.0}


def test_a_chain_has_its_own_scores_and_ratios(part: Any) -> None:
    scores = part("tasks.setting").Scores
    models = {name: [scores({"f1": 0.5}, 10, 2, 4)] for name in ("ours", "reference", "compressed", "baseline")}
    found = part("applications").summarize(models | {"chain": [scores({"f1": 0.4}, 0, 3, 9)]})
    assert found["chain"] == {"f1": 0.4, "speedup": 3, "size_ratio": 9}


def test_a_file_has_the_texts_of_prepared_rows_again_and_again(part: Any, tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    bench = part("tasks.setting").Bench(tmp_path, tmp_path)
    path = part("tasks.scoring").write_texts(bench, tmp_path, 5)
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == list("ababa")


def test_instructions_are_drawn_without_repetition(part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = part("tasks.instructions")
    monkeypatch.setattr(module, "ROWS", {"train": 5, "validation": 2, "test": 3})
    question = {"question": "who?", "answers": [{"text": "Ada"}]}
    articles = [{"paragraphs": [{"context": f"text {number}", "qas": [question] * 2} for number in range(4)]}]
    (tmp_path / "xquad.en.json").write_text(json.dumps({"data": articles}))
    papers = [json.dumps({"source": ["A.", f"B{number}."], "target": ["short"]}) for number in range(4)]
    (tmp_path / "scitldr_a_train.jsonl").write_text("\n".join(papers))
    (tmp_path / "banking77_train.csv").write_text("text,category\n" + "my card,lost_card\n" * 40)
    paths = [Path(option.partition("=")[2]) for option in module.instructions(tmp_path, tmp_path)]
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert len(rows) == 10
    assert {row["output"] for row in rows} == {"Ada", "short", "lost card"}
    assert all(set(row) == {"instruction", "input", "output"} for row in rows)


def test_an_index_is_measured_against_exact_search(part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = part("tasks.search_index")
    monkeypatch.setattr(index, "peers", lambda vectors: {"none": (lambda query: [0] * index.HITS, 16)})
    draw = np.random.default_rng(0)
    vectors = (draw.standard_normal((1100, 12)) @ draw.standard_normal((12, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = index.measure([f"text {row}" for row in range(1090)], vectors[10:], vectors[:10], tmp_path / "index")
    assert (
        found["vectors"] == 1090 and found["recall"] > 0.95 and found["size_ratio"] == 32 > found["memory_ratio"] > 20
    )
    assert found["none"]["recall"] < 0.2 and found["none"]["size_ratio"] == 8 and found["vs_exact"] > 0


def test_recommendations_of_the_reference_are_scored_as_ours(part: Any) -> None:
    found = [("0", "a", 1), ("0", "b", 2), ("1", "c", 10), ("2", "d", 11)]
    scores = part("tasks.item_reference").score(found, {"0": "b", "1": "c", "2": "d", "3": "e"})
    assert scores == {"hr10": 0.5, "ndcg10": pytest.approx((1 / math.log2(3) + 1 / math.log2(11)) / 4)}


def test_models_of_items_are_summarized_with_or_without_the_reference(part: Any) -> None:
    scores = part("tasks.setting").Scores
    found = {
        "ours": [scores({"hr10": 0.2, "ndcg10": 0.1}, rate=60.0), scores({"hr10": 0.4, "ndcg10": 0.3}, rate=60.0)],
        "compressed": [scores({"hr10": 0.2, "ndcg10": 0.1}, speedup=3.0, size_ratio=2.0)] * 2,
        "reference": [],
    }
    summarize = part("tasks.items").summarize
    result = summarize(found)
    assert (result["hr10"], result["ndcg10"], result["rate"], result["speedup"]) == (0.3, 0.2, 60.0, 3.0)
    assert "rate_ratio" not in result and "reference" not in result
    found["reference"] = [scores({"hr10": 0.1, "ndcg10": 0.1}, rate=30.0)]
    assert summarize(found)["rate_ratio"] == 2.0

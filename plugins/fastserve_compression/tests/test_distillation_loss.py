"""What a student learns from: each term is nothing for the teacher itself, and steps on it bring the student nearer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import Cli
from fastserve_compression import distillation_loss
from fastserve_compression.distillation import DistillOptions
from fastserve_compression.structural_pruning import drop_layers
from fastserve_compression.student import select_evenly
from fastserve_core.artifacts import copy_tree, load_artifact
from fastserve_core.errors import ArtifactError, ModelError
from fastserve_core.tasks import DistillationTarget

Batch = dict[str, torch.Tensor]
WEIGHTS = {"alpha": 0.0, "temperature": 2.0, "hidden_weight": 0.0, "relation_weight": 0.0}


def lesson(folder: Path, student: Any, **weights: float) -> distillation_loss.Distillation:
    options = {"teacher": str(folder), **WEIGHTS, **weights}
    return distillation_loss.Distillation(options, student, torch.float32, torch.device("cpu"))


def loss_of(taught: distillation_loss.Distillation, student: Any, batch: Batch) -> torch.Tensor:
    inputs = {name: one for name, one in batch.items() if name != "labels"}
    outputs = student(**inputs, **taught.forward_kwargs)
    return taught(inputs, outputs, torch.ones_like(batch["labels"], dtype=torch.bool), torch.tensor(8.0))


@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta"])
@pytest.mark.parametrize("term", ["alpha", "hidden_weight", "relation_weight"])
def test_the_teacher_has_nothing_to_learn_from_itself(
    tiny: Callable[..., Any], batches: list[Batch], tmp_path: Path, family: str, term: str
) -> None:
    teacher = tiny(family)
    teacher.save_pretrained(tmp_path)
    weight = {"alpha": 1.0}.get(term, 3.0)
    found = loss_of(lesson(tmp_path, teacher, **{term: weight}), teacher, batches[0])
    hard = 0.0 if term == "alpha" else 8.0  # what the labels have when the teacher's answers have none
    assert float(found.detach()) == pytest.approx(hard, abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_teachers_answers_weigh_as_hinton_has_it(temperature: float) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 3, generator=draw) for _ in range(2))
    counted = torch.tensor([True, True, False, True])
    own, wanted = ((one[counted] / temperature).softmax(-1) for one in (student, teacher))
    expected = temperature**2 * float((wanted * (wanted / own).log()).sum())
    assert float(distillation_loss.logit_loss(student, teacher, counted, temperature)) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("term", ["alpha", "hidden_weight", "relation_weight"])
def test_steps_on_each_term_bring_a_shallower_student_nearer(
    tiny: Callable[..., Any], batches: list[Batch], tmp_path: Path, term: str
) -> None:
    tiny("Bert").save_pretrained(tmp_path)
    student = tiny("Bert")
    drop_layers(student, [1])
    taught = lesson(tmp_path, student, **{term: 1.0})
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = loss_of(taught, student, batches[0])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()) - (0.0 if term == "alpha" else 8.0))
    assert losses[-1] < 0.6 * losses[0]


def test_padding_does_not_count(tiny: Callable[..., Any], batches: list[Batch], tmp_path: Path) -> None:
    tiny("Bert").save_pretrained(tmp_path)
    student = tiny("Bert")
    drop_layers(student, [0])
    taught = lesson(tmp_path, student, alpha=1.0, hidden_weight=1.0, relation_weight=1.0)
    padded = {name: torch.nn.functional.pad(one, (0, 4)) if one.ndim == 2 else one for name, one in batches[0].items()}
    assert torch.allclose(loss_of(taught, student, batches[0]), loss_of(taught, student, padded), atol=1e-4)


def test_answers_are_summed_over_counted_positions() -> None:
    student, teacher = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    counted = torch.rand(3, 5) > 0.4
    single = sum(
        float(distillation_loss.logit_loss(student[place][None], teacher[place][None], torch.tensor([True]), 2.0))
        for place in counted.nonzero(as_tuple=False).unbind(0)
        for place in [tuple(place.tolist())]
    )
    assert float(distillation_loss.logit_loss(student, teacher, counted, 2.0)) == pytest.approx(single, rel=1e-4)


COMPARISONS = ("categorical", "binary", "regression", "span", "vector")


@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_each_kind_of_output_is_nearest_to_itself(comparison: Any, temperature: float) -> None:
    draw = torch.Generator().manual_seed(0)
    teacher, other = (torch.randn(4, 6, generator=draw) for _ in range(2))
    counted, mask = torch.tensor([True, True, False, True]), torch.arange(6) < torch.tensor([[6], [4], [6], [2]])
    target = DistillationTarget("logits", comparison)

    def distance(student: torch.Tensor) -> float:
        return float(distillation_loss.output_loss(target, student, teacher, counted, temperature, mask))

    assert distance(teacher) == pytest.approx(0, abs=1e-4)
    assert distance(other) > 0.1
    changed = other.clone()
    changed[2] = 100.0
    assert distance(changed) == pytest.approx(distance(other)), "a row that does not count"
    padded = other.clone()
    padded[3, 2:] = 100.0
    assert (distance(padded) == pytest.approx(distance(other))) is (comparison == "span")


def test_layers_of_other_widths_cannot_be_compared(tiny: Callable[..., Any], tmp_path: Path) -> None:
    tiny("Bert").save_pretrained(tmp_path)
    narrow = tiny("DistilBert")
    narrow.config.hidden_size = 16
    with pytest.raises(ModelError, match="the model has 16 and the teacher 32: set hidden_weight=0"):
        lesson(tmp_path, narrow, hidden_weight=1.0)


@given(st.integers(1, 48), st.data())
def test_layers_are_spaced_over_all_of_the_teachers(count: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(1, count))
    numbers = select_evenly(count, wanted)
    assert len(set(numbers)) == wanted
    assert numbers == sorted(numbers)
    assert numbers[-1] == count - 1
    assert wanted == 1 or numbers[0] == 0


@pytest.mark.slow
def test_a_pruned_model_is_judged_when_it_has_been_taught(
    cli: Cli, tiny_bert: Path, reviews: Path, tmp_path: Path
) -> None:
    command = [
        "+plugin=[torch_ddp,prune,distill]", f"model={tiny_bert}", f"data={reviews}",
        "train.torch_ddp.epochs=4", "train.torch_ddp.lr=3e-3", "train.torch_ddp.batch_size=16",
        "compress.distill.relation_weight=0.5", "compress.distill.epochs=2", "gate.min_speedup=0.01",
    ]  # fmt: skip
    done = cli(*command, "gate.max_quality_drop=0.2")
    assert done.returncode == 0, done.stderr + done.stdout
    record = newest(tmp_path)
    _, pruned, distilled = record["stages"]
    artifact = load_artifact(Path(distilled["artifact"]), verify=True)
    assert [one["plugin"] for one in artifact.manifest.lineage[-3:]] == ["torch_ddp", "prune", "distill"]
    assert artifact.manifest.runtime["engine"] == "torch"
    assert record["best"] == distilled["artifact"]
    assert distilled["measures"]["quality"]["accuracy"] > 0.9
    assert distilled["measures"]["size_bytes"] == pytest.approx(pruned["measures"]["size_bytes"], rel=0.02)
    again = cli(*command, "gate.max_quality_drop=-1")  # everything that is judged is refused
    assert again.returncode == 0, again.stderr
    record = newest(tmp_path)
    assert [one["status"] for one in record["stages"]] == ["reused", "reused", "rejected"]
    assert record["best"] == record["stages"][0]["artifact"]
    digests = []
    for teacher in (artifact.folder, Path(pruned["artifact"])):  # another one in the same folder is another lesson
        copy_tree(teacher, tmp_path / "teacher")
        done = cli(*command, "gate.enabled=false", f"compress.distill.teacher={tmp_path / 'teacher'}")
        assert done.returncode == 0, done.stderr + done.stdout
        last = newest(tmp_path)["stages"][-1]
        assert last["status"] == "done"
        digests.append(last["digest"])
    assert len({*digests, distilled["digest"]}) == 3


def newest(folder: Path) -> dict[str, Any]:
    path = max(folder.glob("outputs/*/*/run.json"), key=lambda one: one.stat().st_mtime)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_teacher_that_is_not_an_artifact_is_reported_when_the_options_are_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an artifact"):
        DistillOptions(teacher=str(tmp_path / "nowhere"))


@pytest.mark.slow
def test_distill_without_a_trainer_is_refused(cli: Cli, tiny_bert: Path, reviews: Path) -> None:
    done = cli("+plugin=distill", f"model={tiny_bert}", f"data={reviews}")
    assert done.returncode == 2
    assert "'distill' needs a trainer: add one, e.g. +plugin=[torch_ddp,distill]" in done.stderr

"""Distils: has the trainer train the model on what a larger one answers, besides the labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from fastserve_core import hookimpl
from fastserve_core.artifacts.artifact import Artifact, load_artifact
from fastserve_core.artifacts.hashing import digest, hash_files
from fastserve_core.data.unlabelled import paths_of
from fastserve_core.errors import BadModel, BadOption, Collector
from fastserve_core.plugins.contexts import Draft, Lesson, Run
from fastserve_slim.augmenting import MadeUp

HERE = "compress.distill"
WITHOUT_LABELS = ("causal_lm", "pretraining")
AWARE = ("int8", "int4")
TO_THE_LOSS = ("soft", "temperature", "hidden", "relations", "quantize_aware")


@dataclass
class DistillOptions:
    """The model learns from the ``teacher``, an artifact's folder; null is the model before the first compressor.

    ``soft`` is the weight of the teacher's answers, at the ``temperature``, and the labels have the rest (Hinton et
    al. 2015). ``hidden`` weighs the distance of the layers' outputs (TinyBERT, Jiao et al. 2020), ``relations`` that
    of the last layers' relations between tokens (MiniLMv2, Wang et al. 2021). ``layers`` begins with so many of the
    teacher's layers, evenly spaced, in place of the model; null keeps the model. ``epochs`` and ``lr`` are the
    trainer's for this training; null leaves the trainer's own. ``unlabelled`` is a file of texts, or several, that the
    teacher alone speaks of; ``augment`` adds so many texts for each training row, made of the training texts. With
    ``quantize_aware`` the student learns while its linear layers compute with weights of int8 or int4, and inputs of
    8 bits (Jacob et al. 2018).
    """

    teacher: str | None = None
    layers: int | None = None
    soft: float = 0.9
    temperature: float = 2.0
    hidden: float = 1.0
    relations: float = 0.0
    unlabelled: Any = None
    augment: int = 0
    quantize_aware: str | None = None
    epochs: int | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        faults = Collector()
        for name in ("layers", "epochs"):
            value = getattr(self, name)
            with faults.collect():
                if value is not None and value < 1:
                    raise BadOption(f"{HERE}.{name} must be at least 1, not {value}")
        for name in ("hidden", "relations", "augment"):
            with faults.collect():
                if getattr(self, name) < 0:
                    raise BadOption(f"{HERE}.{name} must be at least 0, not {getattr(self, name)}")
        for name in ("temperature", "lr"):
            value = getattr(self, name)
            with faults.collect():
                if value is not None and value <= 0:
                    raise BadOption(f"{HERE}.{name} must be above 0, not {value}")
        with faults.collect():
            if self.teacher is not None:
                load_artifact(Path(self.teacher).expanduser().absolute())  # before hours are spent
        with faults.collect():
            if self.quantize_aware is not None and self.quantize_aware not in AWARE:
                raise BadOption(
                    f"{HERE}.quantize_aware must be one of {', '.join(AWARE)}, or null; not '{self.quantize_aware}'"
                )
        with faults.collect():
            if self.unlabelled is not None and not self.files:
                raise BadOption(f"{HERE}.unlabelled is a file's path or a list of them, not {self.unlabelled!r}")
            paths_of(self.files, f"{HERE}.unlabelled")  # before hours are spent
        with faults.collect():
            if not 0 <= self.soft <= 1:
                raise BadOption(f"{HERE}.soft must lie between 0 and 1, not {self.soft}")
        with faults.collect():
            if not (self.soft or self.hidden or self.relations):
                raise BadOption(f"{HERE} has nothing to learn from: soft, hidden and relations are all 0")
        faults.raise_if_any()

    @property
    def files(self) -> list[str]:
        """The files of unlabelled texts; empty as well where what is given is no path and no list of them."""
        given = [self.unlabelled] if isinstance(self.unlabelled, str) else self.unlabelled
        proper = isinstance(given, list) and all(isinstance(one, str) and one for one in given)
        return list(given) if proper else []


class Distill:
    """The compressor that trains; the trainer of the run does the work."""

    api_version: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors")
    trains: ClassVar[bool] = True
    reads_files: ClassVar[tuple[str, ...]] = ("unlabelled",)
    reads_artifacts: ClassVar[tuple[str, ...]] = ("teacher",)
    Options = DistillOptions

    def __init__(self, options: DistillOptions) -> None:
        self.options = options

    def check_task(self, task: str) -> None:
        """Raise ``BadOption`` for texts without labels where no text has any: before hours are spent."""
        for name in ("unlabelled", "augment"):
            if getattr(self.options, name) and task in WITHOUT_LABELS:
                raise BadOption(f"{HERE}.{name}: {task} learns from texts as they are: add texts to data.train")

    @hookimpl
    def compress(self, run: Run) -> Draft:
        teacher, student = self._teacher(run), run.model
        if self.options.layers is not None:
            student = self._student(run, teacher)
        options = self.options
        lesson = Lesson(
            "distillation",
            {
                "teacher": str(teacher.folder),
                **{name: getattr(options, name) for name in TO_THE_LOSS},
            },
        )
        changes = {name: getattr(options, name) for name in ("epochs", "lr") if getattr(options, name) is not None}
        rows = MadeUp(run.data.rows("train"), options.augment, run.seed) if options.augment else ()
        return run.retrain(student, changes, lesson, options.files, rows)

    def _teacher(self, run: Run) -> Artifact:
        """The teacher; raises ``BadModel`` for one of another task or other labels, which would teach nonsense."""
        if self.options.teacher is None:
            return run.original or run.model
        teacher = load_artifact(Path(self.options.teacher).expanduser().absolute(), verify=True)
        if teacher.manifest.task != run.task.name or tuple(teacher.manifest.labels) != run.labels:
            raise BadModel(
                f"{HERE}.teacher={teacher.folder} is for {teacher.manifest.task} with the labels "
                f"{', '.join(teacher.manifest.labels)}; the model is for {run.task.name} with {', '.join(run.labels)}"
            )
        return teacher

    def _student(self, run: Run, teacher: Artifact) -> Artifact:
        from fastserve_core.processes.child import TRANSFORMERS, call

        folder = run.fresh_folder("student")
        request = {
            "teacher": teacher.folder,
            "student": folder,
            "layers": self.options.layers,
            "task": [run.task.name, vars(run.task.options), list(run.labels)],
        }
        call("fastserve_slim.student", request, run.threads, run.emit, TRANSFORMERS)
        return replace(teacher, folder=folder, digest=digest(hash_files(folder)))

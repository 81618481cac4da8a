"""Distils: has the trainer train the model on what a larger one answers, besides the labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from fastserve_compression.augmentation import AugmentedRows
from fastserve_core import hookimpl
from fastserve_core.artifacts import Artifact, hash_files, json_digest, load_artifact
from fastserve_core.data import resolve_paths
from fastserve_core.errors import ErrorCollector, InvalidModel, InvalidOption
from fastserve_core.plugins import AuxiliaryLoss, CompressContext, Compressor, StagedArtifact

OPTION_PATH = "compress.distill"
WITHOUT_LABELS = ("causal_lm", "pretraining")
QAT_BITS = ("int8", "int4")
LOSS_OPTIONS = ("alpha", "temperature", "hidden_weight", "relation_weight", "quantize_aware")


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
    alpha: float = 0.9
    temperature: float = 2.0
    hidden_weight: float = 1.0
    relation_weight: float = 0.0
    unlabelled: Any = None
    augment: int = 0
    quantize_aware: str | None = None
    epochs: int | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        faults = ErrorCollector()
        for name in ("layers", "epochs"):
            value = getattr(self, name)
            with faults.collect():
                if value is not None and value < 1:
                    raise InvalidOption(f"{OPTION_PATH}.{name} must be at least 1, not {value}")
        for name in ("hidden_weight", "relation_weight", "augment"):
            with faults.collect():
                if getattr(self, name) < 0:
                    raise InvalidOption(f"{OPTION_PATH}.{name} must be at least 0, not {getattr(self, name)}")
        for name in ("temperature", "lr"):
            value = getattr(self, name)
            with faults.collect():
                if value is not None and value <= 0:
                    raise InvalidOption(f"{OPTION_PATH}.{name} must be above 0, not {value}")
        with faults.collect():
            if self.teacher is not None:
                load_artifact(Path(self.teacher).expanduser().absolute())  # before hours are spent
        with faults.collect():
            if self.quantize_aware is not None and self.quantize_aware not in QAT_BITS:
                raise InvalidOption(
                    f"{OPTION_PATH}.quantize_aware must be one of {', '.join(QAT_BITS)}, or null; "
                    f"not '{self.quantize_aware}'"
                )
        with faults.collect():
            if self.unlabelled is not None and not self.files:
                raise InvalidOption(
                    f"{OPTION_PATH}.unlabelled is a file's path or a list of them, not {self.unlabelled!r}"
                )
            resolve_paths(self.files, f"{OPTION_PATH}.unlabelled")  # before hours are spent
        with faults.collect():
            if not 0 <= self.alpha <= 1:
                raise InvalidOption(f"{OPTION_PATH}.alpha must lie between 0 and 1, not {self.alpha}")
        with faults.collect():
            if not (self.alpha or self.hidden_weight or self.relation_weight):
                raise InvalidOption(
                    f"{OPTION_PATH} has nothing to learn from: alpha, hidden_weight and relation_weight are all 0"
                )
        faults.raise_if_any()

    @property
    def files(self) -> list[str]:
        """The files of unlabelled texts; empty as well where what is given is no path and no list of them."""
        given = [self.unlabelled] if isinstance(self.unlabelled, str) else self.unlabelled
        proper = isinstance(given, list) and all(isinstance(one, str) and one for one in given)
        return list(given) if proper else []


class Distill(Compressor):
    """The compressor that trains; the trainer of the run does the work."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors")
    trains: ClassVar[bool] = True
    reads_files: ClassVar[tuple[str, ...]] = ("unlabelled",)
    reads_artifacts: ClassVar[tuple[str, ...]] = ("teacher",)
    Options = DistillOptions

    def __init__(self, options: DistillOptions) -> None:
        self.options = options

    def check_task(self, task: str) -> None:
        """Raise ``InvalidOption`` for texts without labels where no text has any: before hours are spent."""
        for name in ("unlabelled", "augment"):
            if getattr(self.options, name) and task in WITHOUT_LABELS:
                raise InvalidOption(
                    f"{OPTION_PATH}.{name}: {task} learns from texts as they are: add texts to data.train"
                )

    @hookimpl
    def compress(self, run: CompressContext) -> StagedArtifact:
        teacher, student = self._teacher(run), run.model
        if self.options.layers is not None:
            student = self._student(run, teacher)
        options = self.options
        lesson = AuxiliaryLoss(
            "distillation",
            {
                "teacher": str(teacher.folder),
                **{name: getattr(options, name) for name in LOSS_OPTIONS},
            },
        )
        changes = {name: getattr(options, name) for name in ("epochs", "lr") if getattr(options, name) is not None}
        rows = AugmentedRows(run.data.rows("train"), options.augment, run.seed) if options.augment else ()
        return run.retrain(student, changes, lesson, options.files, rows)

    def _teacher(self, run: CompressContext) -> Artifact:
        """The teacher; raises ``InvalidModel`` for one of another task or other labels, which would teach nonsense."""
        if self.options.teacher is None:
            return run.original
        teacher = load_artifact(Path(self.options.teacher).expanduser().absolute(), verify=True)
        if teacher.manifest.task != run.task.name or tuple(teacher.manifest.labels) != run.labels:
            raise InvalidModel(
                f"{OPTION_PATH}.teacher={teacher.folder} is for {teacher.manifest.task} with the labels "
                f"{', '.join(teacher.manifest.labels)}; the model is for {run.task.name} with {', '.join(run.labels)}"
            )
        return teacher

    def _student(self, run: CompressContext, teacher: Artifact) -> Artifact:
        from fastserve_core.processes import PRELOAD_MODULES, run_in_child

        folder = run.clean_folder("student")
        request = {
            "teacher": teacher.folder,
            "student": folder,
            "layers": self.options.layers,
            "task": [run.task.name, vars(run.task.options), list(run.labels)],
        }
        run_in_child("fastserve_compression.student", request, run.threads, run.emit, PRELOAD_MODULES)
        return replace(teacher, folder=folder, digest=json_digest(hash_files(folder)))

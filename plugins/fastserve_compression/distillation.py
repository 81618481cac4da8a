"""Knowledge distillation: retrain the model on a teacher's outputs as well as on the labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from fastserve_compression.augmentation import AugmentedRows
from fastserve_core import hookimpl
from fastserve_core.artifacts import Artifact, expand_user, hash_files, json_digest, load_artifact
from fastserve_core.data import file_source
from fastserve_core.errors import ErrorCollector, ModelError, OptionError
from fastserve_core.plugins import AuxiliaryLoss, CompressContext, Compressor, StagedArtifact
from fastserve_core.tasks import Task

OPTION_PATH = "compress.distill"
QAT_DTYPES = ("int8", "int4")
LOSS_OPTIONS = ("alpha", "temperature", "hidden_weight", "relation_weight", "quantize_aware")


@dataclass
class DistillOptions:
    """Options of ``compress.distill``.

    Attributes:
        teacher: Folder of the teacher's artifact; null is the model before the first compressor.
        layers: Initialize the student from this number of the teacher's layers, evenly spaced; null keeps the model.
        alpha: Weight of the teacher's outputs; the labels have the rest (Hinton et al. 2015).
        temperature: Softmax temperature of the teacher's and the student's logits.
        hidden_weight: Weight of the distance between hidden states (TinyBERT, Jiao et al. 2020).
        relation_weight: Weight of the distance between the last layers' token relations (MiniLMv2, Wang et al. 2021).
        unlabelled: Path or list of paths of texts without labels, which only the teacher scores.
        augment: Number of synthetic texts for each training row.
        quantize_aware: Train with weights of ``int8`` or ``int4`` and 8-bit inputs in the linear layers
            (Jacob et al. 2018); null trains in full precision.
        epochs: Epochs of this training; null is the trainer's own value.
        lr: Learning rate of this training; null is the trainer's own value.
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
                    raise OptionError(f"{OPTION_PATH}.{name} must be at least 1, not {value}")
        for name in ("hidden_weight", "relation_weight", "augment"):
            with faults.collect():
                if getattr(self, name) < 0:
                    raise OptionError(f"{OPTION_PATH}.{name} must be at least 0, not {getattr(self, name)}")
        for name in ("temperature", "lr"):
            value = getattr(self, name)
            with faults.collect():
                if value is not None and value <= 0:
                    raise OptionError(f"{OPTION_PATH}.{name} must be greater than 0, not {value}")
        with faults.collect():
            if self.teacher is not None:
                load_artifact(expand_user(self.teacher).absolute())  # fail before the training starts
        with faults.collect():
            if self.quantize_aware is not None and self.quantize_aware not in QAT_DTYPES:
                raise OptionError(
                    f"{OPTION_PATH}.quantize_aware must be one of {', '.join(QAT_DTYPES)}, or null; "
                    f"not '{self.quantize_aware}'"
                )
        with faults.collect():
            if self.unlabelled is not None and not self.files:
                raise OptionError(
                    f"{OPTION_PATH}.unlabelled must be a path or a list of paths, not {self.unlabelled!r}"
                )
            if self.files:
                file_source().check_files(self.files, f"{OPTION_PATH}.unlabelled")  # fail before the training starts
        with faults.collect():
            if not 0 <= self.alpha <= 1:
                raise OptionError(f"{OPTION_PATH}.alpha must be between 0 and 1, not {self.alpha}")
        with faults.collect():
            if not (self.alpha or self.hidden_weight or self.relation_weight):
                raise OptionError(f"{OPTION_PATH} has no loss: alpha, hidden_weight and relation_weight are all 0")
        faults.raise_if_any()

    @property
    def files(self) -> list[str]:
        """Return the files of unlabelled texts; empty if the option is neither a path nor a list of paths."""
        given = [self.unlabelled] if isinstance(self.unlabelled, str) else self.unlabelled
        is_valid = isinstance(given, list) and all(isinstance(path, str) and path for path in given)
        return list(given) if is_valid else []


class Distill(Compressor):
    """Compressor that retrains the model with the run's trainer."""

    api_version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "safetensors")
    trains: ClassVar[bool] = True
    reads_files: ClassVar[tuple[str, ...]] = ("unlabelled",)
    reads_artifacts: ClassVar[tuple[str, ...]] = ("teacher",)
    Options = DistillOptions

    def __init__(self, options: DistillOptions) -> None:
        self.options = options

    def check_task(self, task: Task) -> None:
        """Refuse texts without labels if no text has any, and a task without outputs to compare."""
        if not task.distillation_targets:
            raise OptionError(f"{OPTION_PATH}: {task.name} names no outputs that a teacher could be compared on")
        for name in ("unlabelled", "augment"):
            if getattr(self.options, name) and not task.label_columns:
                raise OptionError(
                    f"{OPTION_PATH}.{name}: {task.name} learns from texts as they are: add texts to data.train"
                )

    @hookimpl
    def compress(self, run: CompressContext) -> StagedArtifact:
        """Retrain the student with the distillation loss.

        Raises:
            ModelError: The teacher has another task or other labels.
        """
        teacher, student = self._teacher(run), run.model
        if self.options.layers is not None:
            student = self._student(run, teacher)
        options = self.options
        loss = AuxiliaryLoss(
            "distillation",
            {
                "teacher": str(teacher.folder),
                **{name: getattr(options, name) for name in LOSS_OPTIONS},
            },
        )
        changes = {name: getattr(options, name) for name in ("epochs", "lr") if getattr(options, name) is not None}
        rows = AugmentedRows(run.data.rows("train"), options.augment, run.seed) if options.augment else ()
        return run.retrain(student, changes, loss, options.files, rows)

    def _teacher(self, run: CompressContext) -> Artifact:
        """Load the teacher; its task and labels must equal the model's."""
        if self.options.teacher is None:
            return run.original
        teacher = load_artifact(expand_user(self.options.teacher).absolute(), verify=True)
        if teacher.manifest.task != run.task.name or tuple(teacher.manifest.labels) != run.labels:
            raise ModelError(
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

"""Distillation loss: labels, teacher logits, hidden states and token relations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastserve_compression.qat import FakeQuantizer
from fastserve_core.artifacts import read_json
from fastserve_core.errors import ModelError
from fastserve_core.models import load_pretrained
from fastserve_core.tasks import DistillationTarget

LOGITS = (DistillationTarget(),)
RELATION_HEADS = 12
PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))
"""Names of the query, key and value projections in BERT, DistilBERT and Llama, and in models derived from them."""

NO_TOKEN_VECTORS = (
    "compress.distill.hidden_weight: the model's layers do not return a vector for each token: set it to 0"
)


class Distillation:
    """Auxiliary loss that the trainer calls with each step's inputs and outputs.

    All terms are sums over the positions that count, as the loss of the labels is: rows of a classifier, words of a
    tagger, tokens of a language model.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        student: nn.Module,
        computed_in: torch.dtype,
        device: torch.device,
        targets: Sequence[DistillationTarget] = LOGITS,
        uncompressed: Collection[str] = (),
    ) -> None:
        """Load the teacher and attach the hooks.

        Args:
            options: Values of ``DistillOptions`` by name; ``teacher`` is a folder.
            student: Model to train; it gets forward hooks.
            computed_in: Dtype that the teacher computes in.
            device: Device of the teacher.
            targets: Outputs that the student is compared with the teacher on.
            uncompressed: Names of modules that stay as they are.

        Raises:
            ModelError: The widths differ, or the projections of a model are unknown.
        """
        self.options, self.targets = options, targets
        aware = options.get("quantize_aware")
        self.state = {"ranges": FakeQuantizer(student, aware, device, uncompressed).ranges} if aware else {}
        self.teacher = load_teacher(Path(options["teacher"])).to(device, computed_in)
        self.forward_kwargs = {"output_hidden_states": True} if options["hidden_weight"] else {}
        self.recorders = (
            [ActivationRecorder(model) for model in (student, self.teacher)] if options["relation_weight"] else []
        )
        if options["hidden_weight"]:
            _check_widths(student, self.teacher)

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Any, counted: Tensor, hard: Tensor) -> Tensor:
        """Return the loss of one step.

        Args:
            inputs: Model inputs of the step, each of shape (batch, length).
            outputs: The student's outputs.
            counted: Boolean mask of the logits' positions that have a label.
            hard: Loss of the labels, summed over ``counted``.

        Returns:
            Scalar loss, summed over ``counted``.
        """
        with torch.no_grad():
            taught = self.teacher(**inputs, **self.forward_kwargs)
        alpha = self.options["alpha"]
        count = counted.sum()
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()  # FNet takes none
        loss: Tensor = (1 - alpha) * hard
        if alpha:
            loss = loss + alpha * self._answer_loss(outputs, taught, counted, mask)
        if self.options["hidden_weight"]:
            student, teacher = (find_hidden_states(given, mask) for given in (outputs, taught))
            loss = loss + self.options["hidden_weight"] * count * hidden_state_loss(student, teacher, mask)
        if self.recorders:
            own, others = (recorder.pop() for recorder in self.recorders)
            loss = loss + self.options["relation_weight"] * count * relation_loss(own, others, mask)
        return loss

    def _answer_loss(self, outputs: Any, taught: Any, counted: Tensor, mask: Tensor) -> Tensor:
        """Return the mean over the task's outputs of the distance between the student's and the teacher's."""
        terms = [
            output_loss(
                target, outputs[target.output], taught[target.output], counted, self.options["temperature"], mask
            )
            for target in self.targets
        ]
        return torch.stack(terms).mean()


def load_teacher(folder: Path) -> nn.Module:
    """Load the teacher in evaluation mode, without gradients."""
    import transformers

    model_class = getattr(transformers, read_json(folder / "config.json")["architectures"][0])
    teacher: nn.Module = load_pretrained(model_class, folder, attn_implementation="eager")
    return teacher.requires_grad_(False).eval()


def output_loss(
    target: DistillationTarget, student: Tensor, teacher: Tensor, counted: Tensor, temperature: float, mask: Tensor
) -> Tensor:
    """Return the distance of one output, summed over the positions that count.

    Args:
        target: The distribution that the output holds.
        student: The student's output; ``counted`` has its shape, or all of its axes but the last.
        teacher: The teacher's output, in the same shape.
        counted: True for positions that count.
        temperature: Softens categorical, span and binary outputs.
        mask: Shape (rows, tokens), true for tokens that are not padding; span outputs are compared on these.
    """
    own, wanted = student.float(), teacher.float()
    if target.comparison == "binary":
        return binary_loss(own[counted], wanted[counted], temperature)
    if target.comparison == "regression":
        return functional.mse_loss(own[counted] / target.unit, wanted[counted] / target.unit, reduction="sum")
    if target.comparison == "vector":
        return (1 - functional.cosine_similarity(own[counted], wanted[counted], dim=-1)).sum()
    if target.comparison == "span":
        lowest = torch.finfo(own.dtype).min / 2  # twice a temperature below 1 it must still be finite
        own, wanted = (values.masked_fill(~mask, lowest * min(1.0, temperature)) for values in (own, wanted))
    return logit_loss(own, wanted, counted, temperature)


def binary_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the summed divergence of independent yes-or-no logits, times temperature squared."""
    share = torch.sigmoid(teacher / temperature)
    cross = functional.binary_cross_entropy_with_logits(student / temperature, share, reduction="sum")
    entropy = functional.binary_cross_entropy_with_logits(teacher / temperature, share, reduction="sum")
    return (cross - entropy) * temperature**2


def logit_loss(student: Tensor, teacher: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence from the teacher's predictions (Hinton et al. 2015).

    Args:
        student: Logits of shape (..., classes).
        teacher: Logits of the same shape.
        counted: Boolean mask of shape (...).
        temperature: Softmax temperature; the loss is multiplied by its square.

    Returns:
        Sum over ``counted``.
    """
    student_logs = functional.log_softmax(student[counted].float() / temperature, -1)
    teacher_logs = functional.log_softmax(teacher[counted].float() / temperature, -1)
    return functional.kl_div(student_logs, teacher_logs, reduction="sum", log_target=True) * temperature**2


def find_hidden_states(outputs: Any, mask: Tensor) -> Sequence[Tensor]:
    """Return a model's hidden states, the embeddings' output first, each with a vector for each token.

    Raises:
        ModelError: The model has none, as an encoder with a decoder, or layers that pool tokens.
    """
    states: Sequence[Tensor] = outputs.get("hidden_states") or ()
    if not states or any(state.shape[:2] != mask.shape for state in states):
        raise ModelError(NO_TOKEN_VECTORS)
    return states


def hidden_state_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the mean squared distance of the hidden states, relative to the teacher's mean square (TinyBERT).

    A student with fewer layers is compared with evenly spaced layers of the teacher.

    Args:
        student: Hidden states of shape (batch, length, width), the embeddings' output first.
        teacher: Hidden states of the teacher, of the same width.
        mask: Boolean mask of the tokens, of shape (batch, length).
    """
    last = len(student) - 1
    indices = [round(layer * (len(teacher) - 1) / last) for layer in range(len(student))]
    terms = []
    for hidden, index in zip(student, indices, strict=True):
        target = teacher[index][mask].float()
        terms.append((hidden[mask].float() - target).square().mean() / target.square().mean())
    return torch.stack(terms).mean()


def relation_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the mean divergence of the token relations of queries, keys and values (MiniLMv2, Wang et al. 2021).

    The width is split into relation heads, so student and teacher may differ in their number of attention heads.

    Args:
        student: Queries, keys and values of the last layer, each of shape (batch, length, width).
        teacher: The same of the teacher.
        mask: Boolean mask of the tokens, of shape (batch, length).
    """
    terms = []
    for student_values, teacher_values in zip(student, teacher, strict=True):
        logs = [_compute_relation(values, mask) for values in (student_values, teacher_values)]
        divergence = functional.kl_div(logs[0], logs[1], reduction="none", log_target=True).sum(-1)
        terms.append(divergence.transpose(1, 2)[mask].mean())
    return torch.stack(terms).mean()


def _compute_relation(values: Tensor, mask: Tensor) -> Tensor:
    """Return log-probabilities (batch, heads, length, length) of each token's relation to the others."""
    heads = next(count for count in range(RELATION_HEADS, 0, -1) if values.shape[-1] % count == 0)
    split = values.float().view(*values.shape[:-1], heads, -1).transpose(1, 2)
    scores = split @ split.transpose(-1, -2) * split.shape[-1] ** -0.5
    scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
    return functional.log_softmax(scores, -1)


class ActivationRecorder:
    """Forward hooks that record the last layer's queries, keys and values."""

    def __init__(self, model: nn.Module) -> None:
        self.outputs: dict[str, Tensor] = {}
        self.names = _find_projections(model)
        for name in self.names:
            model.get_submodule(name).register_forward_hook(self._make_hook(name))

    def _make_hook(self, name: str) -> Any:
        def record(module: nn.Module, given: Any, output: Tensor) -> None:
            self.outputs[name] = output

        return record

    def pop(self) -> list[Tensor]:
        """Return queries, keys and values of the last forward pass, and release them."""
        return [self.outputs.pop(name) for name in self.names]


def _find_projections(model: nn.Module) -> list[str]:
    known = [name for name, _ in model.named_modules()]
    for names in PROJECTIONS:
        last = [next((path for path in reversed(known) if path.endswith(f".{name}")), None) for name in names]
        if all(last):
            return [path for path in last if path]
    raise ModelError(
        "compress.distill.relation_weight: unknown names of the query, key and value projections in this model"
    )


def _check_widths(student: Any, teacher: Any) -> None:
    if student.config.is_encoder_decoder:
        raise ModelError(NO_TOKEN_VECTORS)
    width, teacher_width = (model.config.hidden_size for model in (student, teacher))
    if width != teacher_width:
        raise ModelError(
            f"compress.distill.hidden_weight needs equal widths, but the model has {width} and the teacher "
            f"{teacher_width}: set hidden_weight=0 (and relation_weight=1)"
        )

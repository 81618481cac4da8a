"""The loss of a student: the labels, the teacher's answers, its layers' outputs, and its relations between tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastserve_compression.qat import QuantizeAware
from fastserve_core.artifacts import read_json
from fastserve_core.errors import InvalidModel
from fastserve_core.models import load_pretrained

RELATION_HEADS = 12
PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))
"""How BERT's, DistilBERT's and Llama's kin name what makes a layer's queries, keys and values."""


class Distillation:
    """Called in place of the labels' loss: ``inputs`` of the step, the student's ``outputs``, which places count.

    All terms are sums over the places of the logits that count, as the labels' own loss is: rows of a classifier,
    words of a tagger, tokens of a language model.
    """

    def __init__(
        self, options: Mapping[str, Any], student: nn.Module, computed_in: torch.dtype, device: torch.device
    ) -> None:
        self.options = options
        aware = options.get("quantize_aware")
        self.state = {"ranges": QuantizeAware(student, aware, device).ranges} if aware else {}
        self.teacher = load_teacher(Path(options["teacher"])).to(device, computed_in)
        self.forward_kwargs = {"output_hidden_states": True} if options["hidden_weight"] else {}
        self.watched = (
            [ActivationRecorder(one) for one in (student, self.teacher)] if options["relation_weight"] else []
        )
        if options["hidden_weight"]:
            _check_widths(student, self.teacher)

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Any, counted: Tensor, hard: Tensor) -> Tensor:
        with torch.no_grad():
            taught = self.teacher(**inputs, **self.forward_kwargs)
        alpha = self.options["alpha"]
        loss: Tensor = (1 - alpha) * hard
        if alpha:
            loss = loss + alpha * logit_loss(outputs.logits, taught.logits, counted, self.options["temperature"])
        places, mask = counted.sum(), inputs["attention_mask"].bool()
        if self.options["hidden_weight"]:
            loss = loss + self.options["hidden_weight"] * places * hidden_state_loss(
                outputs.hidden_states, taught.hidden_states, mask
            )
        if self.watched:
            own, others = (one.pop() for one in self.watched)
            loss = loss + self.options["relation_weight"] * places * relation_loss(own, others, mask)
        return loss


def load_teacher(folder: Path) -> nn.Module:
    """The teacher's model, which is not trained and drops nothing out."""
    import transformers

    kind = getattr(transformers, read_json(folder / "config.json")["architectures"][0])
    teacher: nn.Module = load_pretrained(kind, folder, attn_implementation="eager")
    return teacher.requires_grad_(False).eval()


def logit_loss(student: Tensor, teacher: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's answers, times temperature squared (Hinton et al. 2015).

    Logits are (…, classes), ``counted`` (…); the sum over what counts.
    """
    own = functional.log_softmax(student[counted].float() / temperature, -1)
    wanted = functional.log_softmax(teacher[counted].float() / temperature, -1)
    return functional.kl_div(own, wanted, reduction="sum", log_target=True) * temperature**2


def hidden_state_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """The mean squared distance of the layers' outputs over the tokens of ``mask``, relative to the teacher's size.

    A student with fewer layers is held to evenly spaced ones of the teacher; the embeddings' output is the first.
    """
    last = len(student) - 1
    places = [round(number * (len(teacher) - 1) / last) for number in range(len(student))]
    terms = []
    for own, place in zip(student, places, strict=True):
        wanted = teacher[place][mask].float()
        terms.append((own[mask].float() - wanted).square().mean() / wanted.square().mean())
    return torch.stack(terms).mean()


def relation_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """The mean divergence of the tokens' relations to each other by queries, keys and values (MiniLMv2).

    Each is (rows, tokens, width) of the last layer; the width is cut into relation heads, so that student and teacher
    may have different numbers of attention heads.
    """
    terms = []
    for own, wanted in zip(student, teacher, strict=True):
        logs = [_relation(one, mask) for one in (own, wanted)]
        divergence = functional.kl_div(logs[0], logs[1], reduction="none", log_target=True).sum(-1)
        terms.append(divergence.transpose(1, 2)[mask].mean())
    return torch.stack(terms).mean()


def _relation(values: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities (rows, heads, tokens, tokens) of each token's relation to the others."""
    heads = next(count for count in range(RELATION_HEADS, 0, -1) if values.shape[-1] % count == 0)
    cut = values.float().view(*values.shape[:-1], heads, -1).transpose(1, 2)
    scores = cut @ cut.transpose(-1, -2) * cut.shape[-1] ** -0.5
    scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
    return functional.log_softmax(scores, -1)


class ActivationRecorder:
    """Keeps what the last layer's projections gave in the last pass."""

    def __init__(self, model: nn.Module) -> None:
        self.kept: dict[str, Tensor] = {}
        self.names = _projections(model)
        for name in self.names:
            model.get_submodule(name).register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, given: Any, output: Tensor) -> None:
            self.kept[name] = output

        return keep

    def pop(self) -> list[Tensor]:
        """Queries, keys and values, which are let go."""
        return [self.kept.pop(name) for name in self.names]


def _projections(model: nn.Module) -> list[str]:
    known = [name for name, _ in model.named_modules()]
    for names in PROJECTIONS:
        last = [next((one for one in reversed(known) if one.endswith(f".{name}")), None) for name in names]
        if all(last):
            return [one for one in last if one]
    raise InvalidModel(
        "compress.distill.relation_weight: it is not known how this model names its queries, keys and values"
    )


def _check_widths(student: Any, teacher: Any) -> None:
    own, wanted = (one.config.hidden_size for one in (student, teacher))
    if own != wanted:
        raise InvalidModel(
            f"compress.distill.hidden_weight compares layers of the same width, and the model has {own} and the "
            f"teacher {wanted}: set hidden_weight=0 (and relation_weight=1)"
        )

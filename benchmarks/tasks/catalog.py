"""The tasks of the benchmark: their data, our options, and what the reference is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tasks import sources
from tasks.chinese import pretrain
from tasks.instructions import instructions
from tasks.setting import Bench


@dataclass(frozen=True)
class Application:
    """A task of the benchmark.

    Attributes:
        task: Our task.
        prepare: Writes the files and returns the overrides of ``data``; it gets the seed if ``is_drawn``.
        head: The reference, by its name in ``tasks.reference``.
        epochs: The epochs of the reference, and of ours without ``own_epochs``.
        max_length: The tokens of an input, for both.
        metrics: Our metric for each name in the result.
        options: Further overrides of ours.
        is_drawn: The training rows are drawn anew for each seed.
        own_epochs: The epochs of ours, if another method needs fewer.
        has_setfit: SetFit's own package is trained too.
        make_model: Returns the checkpoint: a name in ``conf/model``, or a folder.
        chain: Options of a chain of compressors that is measured too: prune, distill, then 8 bits.
    """

    task: str
    prepare: Callable[..., list[str]]
    head: str
    epochs: int
    max_length: int
    metrics: Mapping[str, str]
    options: Sequence[str] = ()
    is_drawn: bool = False
    own_epochs: int | None = None
    has_setfit: bool = False
    make_model: Callable[[Bench], str] = lambda bench: "minilm"
    chain: Sequence[str] = ()

    def overrides(self, bench: Bench, seed: int) -> list[str]:
        """Return the overrides of a run, without those of the model."""
        drawn = [seed] if self.is_drawn else []
        return [
            f"task={self.task}", f"task.max_length={self.max_length}", *self.options,
            *self.prepare(*drawn, bench.data, bench.scratch),
        ]  # fmt: skip


TAGGING_CHAIN = (
    "compress.prune.layers=[4]", "compress.prune.head_ratio=0.25", "compress.prune.neuron_ratio=0.4",
    "compress.distill.epochs=5", "compress.distill.lr=2e-4", "compress.distill.quantize_aware=int8",
)  # fmt: skip
"""Five of six layers, three quarters of the heads and 0.6 of the neurons are left."""
ACCURACY, F1 = {"accuracy": "accuracy"}, {"f1": "f1"}
ANSWERS = {"em": "em", "f1": "f1"}
ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rougeL"}
SCOPE = {"in_scope": "in_scope", "oos_recall": "oos_recall", "auroc": "auroc"}
INTENTS = {"intent": "intent", "slot_f1": "slot_f1", "whole": "whole"}
LORA = (
    "train.torch_ddp.method=lora",
    "train.torch_ddp.adapter_rank=16",
    "train.torch_ddp.adapter_alpha=32",
    "train.torch_ddp.batch_size=8",
)


def lr(value: float) -> str:
    """Return the override of our learning rate."""
    return f"train.torch_ddp.lr={value}"


FEW_SHOT = (lr(5e-5), "task.few_shot=true")
DRAWN: Mapping[str, Any] = {"is_drawn": True, "own_epochs": 6, "has_setfit": True}

APPLICATIONS: Mapping[str, Application] = {
    "banking77": Application(
        "text_classification",
        sources.banking77,
        "classes",
        5,
        64,
        ACCURACY,
        (lr(2e-4), "data.validation_fraction=0.05"),
    ),
    "banking77_5": Application(
        "text_classification", partial(sources.few_shot, 5), "classes", 40, 64, ACCURACY, FEW_SHOT, **DRAWN
    ),
    "banking77_10": Application(
        "text_classification", partial(sources.few_shot, 10), "classes", 30, 64, ACCURACY, FEW_SHOT, **DRAWN
    ),
    "atis": Application("joint_intent_slots", sources.atis, "intents", 10, 64, INTENTS, (lr(2e-4),)),
    "clinc150": Application("joint_intent_slots", sources.clinc150, "intents", 5, 64, SCOPE, (lr(2e-4),)),
    "wnut17": Application("token_classification", sources.wnut17, "tags", 5, 128, F1, (lr(2e-4),), chain=TAGGING_CHAIN),
    "people_daily": Application(
        "token_classification", sources.people_daily, "tags", 3, 128, F1, (lr(3e-4),), make_model=pretrain
    ),
    "semeval10t8": Application(
        "relation_classification", sources.semeval10t8, "relations", 3, 128, {"macro_f1": "macro_f1"}, (lr(2e-4),)
    ),
    "stsb_en": Application(
        "text_regression", sources.stsb_en, "numbers", 4, 128, {"spearman": "spearman"}, (lr(1e-4),)
    ),
    "xquad_en": Application(
        "question_answering", sources.xquad_en, "answers", 4, 384, ANSWERS, (lr(2e-4), "train.torch_ddp.batch_size=8")
    ),
    "xquad_zh": Application(
        "question_answering", sources.xquad_zh, "answers", 4, 256, ANSWERS, (lr(3e-4),), make_model=pretrain
    ),
    "cmrc": Application(
        "question_answering", sources.cmrc, "answers", 2, 256, ANSWERS, (lr(3e-4),), make_model=pretrain
    ),
    "instructions": Application(
        "causal_lm",
        instructions,
        "instructions",
        1,
        512,
        {"loss": "loss"},
        (lr(2e-4), *LORA),
        make_model=lambda bench: "smollm2",
    ),
    "scitldr": Application(
        "seq2seq",
        sources.scitldr,
        "texts",
        6,
        192,
        ROUGE,
        (lr(3e-4), "task.max_target_length=64", "task.max_new_tokens=64", "task.no_repeat_ngram_size=3"),
    ),
    "pubmedqa": Application(
        "text_classification", sources.pubmedqa, "classes", 4, 384, ACCURACY, (lr(5e-5), "data.validation_fraction=0.1")
    ),
}

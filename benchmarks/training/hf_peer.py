"""Hugging Face's ``Trainer`` on the rows and the model that ours is given; a process of its own."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers

from fastserve_core.data import load_dataset
from fastserve_core.processes import child_main

LEFT_OUT = {"save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
KIBIBYTE = 1024


class Padding:
    """The library's own collator; counts the tokens that it gives out, padding included."""

    def __init__(self, tokenizer: Any) -> None:
        self.pad, self.tokens = transformers.DataCollatorWithPadding(tokenizer), 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        batch = self.pad(rows)
        self.tokens += batch["input_ids"].numel()
        return batch


def train(
    model: str, data: str, labels: list[str], max_length: int, arguments: dict[str, Any], events: str
) -> dict[str, Any]:
    """Train and predict; rows are tokenized before the clock starts, as ours are.

    The memory is read before the prediction, so that it is training's.
    """
    settings = transformers.TrainingArguments(**LEFT_OUT, **arguments)
    transformers.set_seed(settings.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(labels))
    splits = {name: encoded(tokenizer, Path(data), name, labels, max_length) for name in ("train", "validation")}
    padding = Padding(tokenizer)
    trainer = transformers.Trainer(network, settings, data_collator=padding, train_dataset=splits["train"])
    seconds = trainer.train().metrics["train_runtime"]
    peak, tokens = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE, padding.tokens
    found = trainer.predict(splits["validation"])
    return {
        "samples_per_s": round(settings.num_train_epochs * len(splits["train"]) / seconds, 1),
        "tokens_per_s": round(tokens / seconds, 1),
        "accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean()),
        "steps": trainer.state.global_step,
        "seconds": seconds,
        "held_up_s": 0.0,
        "peak_memory_bytes": peak,
    }


def encoded(tokenizer: Any, data: Path, split: str, labels: Sequence[str], max_length: int) -> list[dict[str, Any]]:
    """A split's rows as the lists that the collator pads."""
    rows = list(load_dataset(data).rows(split))
    tokens = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length)
    return [
        {name: column[number] for name, column in tokens.items()} | {"labels": labels.index(row["label"])}
        for number, row in enumerate(rows)
    ]


if __name__ == "__main__":
    child_main(train)

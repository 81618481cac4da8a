"""The reference of instruction tuning: ``Trainer`` with LoRA by peft, and the loss of the answers only.

It has the chat template, the matrices, the rank, the learning rate and the batch of ours. Batches are padded to their
longest row, and the answer's tokens are those behind the rendered prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import transformers

from fastserve_core.tasks import IGNORE_INDEX

RANK, ALPHA, LEARNING_RATE, BATCH = 16, 32, 2e-4, 8
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Rows = Sequence[dict[str, Any]]


class Instructions:
    """A causal language model on conversations."""

    targets: tuple[str, ...] = ("labels",)
    arguments: ClassVar[Mapping[str, Any]] = {"learning_rate": LEARNING_RATE, "per_device_train_batch_size": BATCH}

    def __init__(self, tokenizer: Any, labels: Sequence[str], max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.collate = transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORE_INDEX)

    def build(self, model: str) -> Any:
        from peft import LoraConfig, get_peft_model

        network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        settings = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")
        return get_peft_model(network, settings)

    def encode(self, rows: Rows, is_training: bool) -> list[dict[str, Any]]:
        return [self._encode(row["messages"]) for row in rows]

    def _encode(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        render = self.tokenizer.apply_chat_template
        prompt = render(messages[:-1], tokenize=False, add_generation_prompt=True)
        answer = render(messages, tokenize=False)[len(prompt) :].rstrip()
        first, second = (self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
        ids, labels = first + second, [IGNORE_INDEX] * len(first) + second
        length = self.max_length
        return {"input_ids": ids[:length], "attention_mask": [1] * min(len(ids), length), "labels": labels[:length]}

    @torch.no_grad()
    def score(self, trainer: Any, splits: dict[str, Any]) -> dict[str, float]:
        """Return the mean loss of the tokens of all answers."""
        network, total, count = trainer.model.eval(), 0.0, 0
        for row in self.encode(splits["test"], False):
            batch = {name: torch.tensor([values]) for name, values in row.items()}
            answers = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
            total += float(network(**batch).loss) * answers
            count += answers
        return {"loss": total / count}

"""The next token: training on plain text, and continuation of a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.artifacts import read_config
from fastserve_core.errors import DataError, ModelError, OptionError
from fastserve_core.tasks import (
    AnswerView,
    Arrays,
    BatchLoss,
    DistillationTarget,
    Encoded,
    Encoder,
    LossOptions,
    MetricSpec,
    Row,
    log_softmax,
    object_schema,
)
from fastserve_text.base import TextTask
from fastserve_text.losses import cross_entropy, next_tokens
from fastserve_text.packing import PackedSequences
from fastserve_text.text_codec import ChatTextCodec
from fastserve_text.tokenization import check_positions, encode_within, load_tokenizer, pad, pad_id, token_id

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastserve_core.tasks import Route


@dataclass
class Options:
    """``max_length`` is in tokens; ``temperature`` 0 always takes the likeliest token.

    With ``pack`` the texts are not cut there: joined, they fill blocks of that length.
    """

    max_length: int = 128
    pack: bool = False
    max_new_tokens: int = 32
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise OptionError(f"task.max_length must be at least 4 tokens, not {self.max_length}")
        if self.max_new_tokens < 1:
            raise OptionError(f"task.max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.temperature < 0:
            raise OptionError(f"task.temperature must be 0 or more, not {self.temperature}")


class CausalLM(TextTask):
    """Continues a text with a causal language model."""

    name: ClassVar[str] = "causal_lm"
    Options: ClassVar[type] = Options
    head: ClassVar[str] = "ForCausalLM"
    first_model: ClassVar[str] = "smollm2"
    untrained_model: ClassVar[str] = "gpt2"
    is_generative: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "perplexity": MetricSpec(higher_is_better=False),
        "loss": MetricSpec(higher_is_better=False),
    }
    model_computes_loss: ClassVar[bool] = False
    loss_options: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(),)
    answer_view: ClassVar[AnswerView] = AnswerView(headline="text")
    request_parameters: ClassVar[Mapping[str, str]] = {"max_new_tokens": "max_new_tokens", "temperature": "temperature"}

    @override
    def encoder(self, folder: Path) -> Encoder:
        self.tokenizer = tokenizer = load_tokenizer(folder, self.options.max_length)
        self.padding["input_ids"] = pad_id(folder, tokenizer)
        if self.options.pack:
            self._prepare_packing(folder)

        def encode(rows: Sequence[Row]) -> list[Encoded]:
            texts, length = [row["text"] for row in rows], self.options.max_length
            if self.options.pack:  # they fill several blocks
                encodings = [(one, len(one.ids) > length) for one in tokenizer.encode_batch(texts)]
            else:
                encodings = encode_within(tokenizer.encode_batch, texts, length)
            encoded = []
            for one, truncated in encodings:
                if len(one.ids) == 0:
                    raise DataError("an input cannot be used: it has no tokens that the model knows")
                inputs = {"input_ids": one.ids, "attention_mask": one.attention_mask}
                target = None if self.options.pack else list(one.ids)
                encoded.append(Encoded(inputs, target, truncated=truncated))
            return encoded

        return encode

    @override
    def routes(self, folder: Path) -> Sequence[Route]:
        from fastserve_text.openai_routes import ChatCompletions, Completions

        return Completions(), ChatCompletions()

    @override
    def check_model(self, folder: Path) -> None:
        config = read_config(folder)
        if config.get("is_encoder_decoder"):
            raise ModelError(
                f"{folder} is a {config.get('model_type')} model, an encoder with a decoder; {self.name} takes "
                "decoders, such as GPT-2 and Llama"
            )
        super().check_model(folder)

    @override
    def build(self, folder: Path) -> nn.Module:
        model = super().build(folder)
        if not _is_causal(model):
            raise ModelError(
                f"the {type(model).__name__} in {folder} reads the tokens behind a position too, so it cannot learn to "
                f"predict them: {self.name} takes decoders, such as GPT-2 and Llama. An encoder becomes one with "
                "is_decoder=true in its config.json"
            )
        return model

    @override
    def writer(self, folder: Path) -> ChatTextCodec:
        return ChatTextCodec(folder)

    def _prepare_packing(self, folder: Path) -> None:
        check_positions(folder, self.options.max_length)
        self.tokenizer.no_truncation()
        self.end_of_text = token_id(folder, self.tokenizer, "eos_token")
        if self.end_of_text is None:
            raise ModelError(
                f"the tokenizer of {folder} has no end-of-text token (eos_token), which task.pack=true needs"
            )

    @override
    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        if not self.options.pack or self.end_of_text is None:
            return encoded
        return PackedSequences(encoded, self.options.max_length, self.end_of_text, seed)

    @override
    def collate_prompts(self, batch: Sequence[Encoded]) -> Arrays:
        # generation appends on the right; what is to be packed was not cut
        length = self.options.max_length
        cut = [Encoded({name: ids[:length] for name, ids in one.inputs.items()}) for one in batch]
        return pad(cut, self.padding, targets=False, left=True)

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        return cross_entropy(outputs["logits"], next_tokens(batch["labels"]), options)

    @override
    def counted_positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        return super().counted_positions({"labels": next_tokens(batch["labels"])})

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        answers = []
        for ids in outputs["ids"].tolist():
            while len(ids) > 1 and ids[-1] == ids[-2] == self.padding["input_ids"]:
                ids.pop()  # rows that ended before the longest one were filled up
            answers.append({"text": self.tokenizer.decode(ids, skip_special_tokens=True), "tokens": len(ids)})
        return answers

    @override
    def answer_schema(self) -> dict[str, Any]:
        return object_schema(text={"type": "string"}, tokens={"type": "integer", "minimum": 0})

    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        """Per row: the summed negative log-likelihood of its tokens but the first, and their number."""
        import numpy as np

        found = []
        for logits, one in zip(outputs["logits"], batch, strict=True):
            logs = log_softmax(logits[: len(one)])
            targets = np.asarray(one.target[1:])
            found.append((float(-logs[np.arange(len(targets)), targets].sum()), len(targets)))
        return found

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        loss = sum(one[0] for one in statistics) / max(1, sum(one[1] for one in statistics))
        return {"loss": loss, "perplexity": math.exp(min(loss, 50.0))}

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return -scores["loss"]


def _is_causal(model: Any) -> bool:
    """Return whether the logits of a position stay the same when a later token changes."""
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad():
        first, second = (model(input_ids=torch.tensor([[1, 2, 3, last]])).logits[:, :-1] for last in (0, 4))
    model.train(was_training)
    return bool(torch.allclose(first, second))

"""Pretraining an encoder on plain text: masked language modelling and next-sentence prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.errors import ModelError, OptionError
from fastserve_core.tasks import (
    IGNORE_INDEX,
    AnswerView,
    Arrays,
    Encoded,
    Encoder,
    MetricSpec,
    Row,
    log_softmax,
    object_schema,
    softmax,
)
from fastserve_text.base import TextTask
from fastserve_text.documents import tokenize_document
from fastserve_text.masking import Masking
from fastserve_text.next_sentence import ExampleLayout, NextSentenceExamples
from fastserve_text.tokenization import check_positions, load_tokenizer, pad, pad_id, token_id

if TYPE_CHECKING:
    from torch import nn

MAX_SHOWN = 5
"""How many candidates an answer holds for a mask."""


@dataclass
class Options:
    """``max_length`` is in tokens; sentences fill an example up to it, and ``short_fraction`` aim for less."""

    max_length: int = 128
    mask_fraction: float = 0.15
    whole_word: bool = True
    next_sentence: bool = True
    short_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise OptionError(f"task.max_length must be at least 8 tokens, not {self.max_length}")
        if not 0 < self.mask_fraction < 1:
            raise OptionError(f"task.mask_fraction must lie between 0 and 1, not {self.mask_fraction}")
        if not 0 <= self.short_fraction <= 1:
            raise OptionError(f"task.short_fraction must lie between 0 and 1, not {self.short_fraction}")


class Pretraining(TextTask):
    """BERT's pretraining (Devlin et al. 2018): the loss is that of the masked words plus that of the pairs.

    A row is a document. Its answer fills in the masks of a text.
    """

    name: ClassVar[str] = "pretraining"
    Options: ClassVar[type] = Options
    head: ClassVar[str] = "ForPreTraining"
    first_model: ClassVar[str] = "bert"
    is_pretraining: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "loss": MetricSpec(higher_is_better=False),
        "mlm_loss": MetricSpec(higher_is_better=False),
        "mlm_accuracy": MetricSpec(unit="%"),
        "nsp_loss": MetricSpec(higher_is_better=False),
        "nsp_accuracy": MetricSpec(unit="%"),
    }
    target_names: ClassVar[tuple[str, ...]] = ("labels", "next_sentence_label")
    answer_view: ClassVar[AnswerView] = AnswerView(headline="text")

    @override
    def encoder(self, folder: Path) -> Encoder:
        check_positions(folder, self.options.max_length)
        self.tokenizer = tokenizer = load_tokenizer(folder, self.options.max_length)
        tokenizer.no_truncation()
        self.padding["input_ids"] = pad_id(folder, tokenizer)
        self._bind_token_ids(folder)

        def encode(rows: Sequence[Row]) -> list[Encoded]:
            texts = [row["text"] for row in rows]
            encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
            longest = self.options.max_length - 2  # with the special tokens that a caller's text gets
            return [
                replace(tokenize_document(text, encoding), truncated=len(encoding.ids) > longest)
                for text, encoding in zip(texts, encodings, strict=True)
            ]

        return encode

    def _bind_token_ids(self, folder: Path) -> None:
        """The special tokens, and which ids are ordinary."""
        import numpy as np

        names = ("cls_token", "sep_token", "mask_token")
        first, separator, mask = (token_id(folder, self.tokenizer, name) for name in names)
        if first is None or separator is None or mask is None:
            raise ModelError(f"the tokenizer of {folder} has no mask token: pretraining takes encoders such as BERT")
        special = np.zeros(self.tokenizer.get_vocab_size(), dtype=bool)
        special[[number for number, token in self.tokenizer.get_added_tokens_decoder().items() if token.special]] = True
        special[[first, separator, mask]] = True
        ordinary = np.flatnonzero(~special)
        unknown = token_id(folder, self.tokenizer, "unk_token")
        if unknown is not None:
            special[unknown] = False  # a text of nothing else must still have something to guess
        options = self.options
        self.masking = Masking(options.mask_fraction, options.whole_word, mask, special, ordinary)
        self.layout = ExampleLayout(options.max_length, options.next_sentence, options.short_fraction, first, separator)

    @override
    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        return NextSentenceExamples(encoded, seed, self.layout, self.masking)

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        if not targets:
            return pad([self._whole(one) if "marks" in one.inputs else one for one in batch], self.padding, False)
        arrays = pad([Encoded(one.inputs, one.target.labels) for one in batch], self.padding, True)
        if self.options.next_sentence:
            import numpy as np

            arrays["next_sentence_label"] = np.asarray([one.target.is_random_next for one in batch], dtype=np.int64)
        return arrays

    def _whole(self, document: Encoded) -> Encoded:
        """A caller's text as the model takes it, cut where it is too long."""
        ids = [self.layout.first, *document.inputs["input_ids"][: self.layout.max_length - 2], self.layout.separator]
        return Encoded({"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)})

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        answers = []
        for logits, one in zip(_token_logits(outputs), batch, strict=True):
            text, masks = str(one.decode_state), []
            ids = one.inputs["input_ids"][: self.layout.max_length - 2]
            for place in [place for place, number in enumerate(ids) if number == self.masking.mask]:
                scores = softmax(logits[place + 1])  # the first token is not the text's
                best = scores.argsort()[: -MAX_SHOWN - 1 : -1].tolist()
                candidates = {str(self.tokenizer.id_to_token(number)): float(scores[number]) for number in best}
                token = next(iter(candidates))
                masks.append({"token": token, "candidates": candidates})
                text = text.replace(str(self.tokenizer.id_to_token(self.masking.mask)), token.removeprefix("##"), 1)
            answers.append({"text": text, "masks": masks})
        return answers

    @override
    def answer_schema(self) -> dict[str, Any]:
        text = {"type": "string"}
        candidates = {"type": "object", "additionalProperties": {"type": "number"}}
        mask = object_schema(token=text, candidates=candidates)
        return object_schema(text=text, masks={"type": "array", "items": mask})

    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        """Per row: hidden tokens, their summed loss, how many were guessed; the pair's loss and whether it was."""
        import numpy as np

        labels = [np.asarray(one.target.labels) for one in batch]
        hidden = _masked_logits(_token_logits(outputs), labels)
        found: list[Any] = []
        for number, (logits, row) in enumerate(zip(hidden, labels, strict=True)):
            truth = row[row != IGNORE_INDEX]
            line = [len(truth), float(_losses(logits, truth).sum()), int((logits.argmax(axis=-1) == truth).sum())]
            if self.options.next_sentence:
                pair, elsewhere = outputs["seq_relationship_logits"][number], batch[number].target.is_random_next
                line += [float(_losses(pair[None], [elsewhere])[0]), int(pair.argmax() == elsewhere)]
            found.append(line)
        return found

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        hidden, loss, right, *pair = (sum(column) for column in zip(*statistics, strict=True))
        scores = {"loss": loss / hidden, "mlm_loss": loss / hidden, "mlm_accuracy": right / hidden}
        if pair:
            scores["nsp_loss"], scores["nsp_accuracy"] = (one / len(statistics) for one in pair)
            scores["loss"] += scores["nsp_loss"]
        return scores

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return -scores["loss"]

    @override
    def build(self, folder: Path) -> nn.Module:
        from inspect import signature

        from fastserve_text.masked_positions import masked_positions_only
        from fastserve_text.model_factory import build_model

        model = build_model(folder, self.head if self.options.next_sentence else "ForMaskedLM", [])
        if self.options.next_sentence and "next_sentence_label" not in signature(model.forward).parameters:
            raise ModelError(
                f"{type(model).__name__} has no head for pairs of sentences: set task.next_sentence=false, "
                "or take a BERT"
            )
        return masked_positions_only(model)


def _token_logits(outputs: Arrays) -> Any:
    """The vocabulary's logits, by the name that the model's class gives them."""
    return outputs["prediction_logits" if "prediction_logits" in outputs else "logits"]


def _masked_logits(logits: Any, labels: Sequence[Any]) -> list[Any]:
    """For each row those of its hidden tokens, from logits of (hidden, vocabulary) or (batch, longest, vocabulary)."""
    import numpy as np

    if logits.ndim == 3:
        return [row[: len(one)][one != IGNORE_INDEX] for row, one in zip(logits, labels, strict=True)]
    return np.split(logits, np.cumsum([(one != IGNORE_INDEX).sum() for one in labels])[:-1])


def _losses(logits: Any, truth: Any) -> Any:
    """The negative log-likelihood of each row's true column."""
    import numpy as np

    return -log_softmax(logits)[np.arange(len(truth)), truth]

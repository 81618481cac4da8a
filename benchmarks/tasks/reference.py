"""The references: what the example scripts of transformers do, in a process of its own.

``Trainer`` with its defaults (AdamW at 5e-5, batches of 8, single precision), on the rows that ours is given. Texts are
padded to the maximum length where the scripts do so by default, for classification and questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch.nn.functional import softmax

from fastserve_core.data import load_dataset
from fastserve_core.processes import child_main
from fastserve_core.tasks import IGNORE_INDEX
from tasks.instruction_reference import Instructions
from tasks.joint_reference import JointModel, encode_intents, score_intent_outputs
from tasks.question_reference import encode_contexts, encode_questions, score_question_outputs
from tasks.scorers import mark_entities, score_classes, score_numbers, score_relations, score_tags
from tasks.text_reference import MAX_TARGET, NO_REPEAT, build_two, encode_pairs, score_generation

DEFAULTS = {"save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
MARKS = ("<e1>", "</e1>", "<e2>", "</e2>")
Rows = Sequence[dict[str, Any]]


def train(model: str, data: str, head: str, settings: dict[str, Any], folder: str, events: str) -> dict[str, Any]:
    """Train a reference and score it on the test split.

    Args:
        model: The checkpoint.
        data: The folder of the prepared rows.
        head: ``classes``, ``numbers``, ``relations``, ``tags``, ``answers``, ``intents``, ``instructions`` or
            ``texts``.
        settings: ``labels`` in order, ``max_length`` of an input in tokens, ``epochs`` and ``seed``.
        folder: The output folder of the ``Trainer``.
        events: The path for events, of which there are none.

    Returns:
        ``scores`` by name, ``rate``: training rows a second, and ``generation``: tokens of answers a second, if any.
    """
    seed, epochs = settings["seed"], settings["epochs"]
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    dataset = load_dataset(Path(data))
    splits = {name: list(dataset.rows(name)) for name in ("train", "validation", "test")}
    kind = HEADS[head](tokenizer, settings["labels"], settings["max_length"])
    network = kind.build(model)
    arguments = transformers.TrainingArguments(
        folder, num_train_epochs=epochs, seed=seed, label_names=list(kind.targets), **DEFAULTS, **kind.arguments
    )
    trainer = transformers.Trainer(
        network, arguments, data_collator=kind.collate, train_dataset=kind.encode(splits["train"], True)
    )
    seconds = trainer.train().metrics["train_runtime"]
    scores = kind.score(trainer, splits)
    return {"scores": scores, "rate": epochs * len(splits["train"]) / seconds, "generation": kind.generation_rate}


class Classes:
    """``run_glue.py``: one label for a text or a pair."""

    kind: Any = transformers.AutoModelForSequenceClassification
    targets: tuple[str, ...] = ("labels",)
    arguments: ClassVar[Mapping[str, Any]] = {}
    generation_rate = 0.0

    def __init__(self, tokenizer: Any, labels: Sequence[str], max_length: int) -> None:
        self.tokenizer, self.labels, self.max_length = tokenizer, list(labels), max_length
        self.collate: Any = transformers.default_data_collator

    def build(self, model: str) -> Any:
        return self.kind.from_pretrained(model, num_labels=max(len(self.labels), 1))

    def target(self, row: dict[str, Any]) -> Any:
        return self.labels.index(row["label"])

    def encode(self, rows: Rows, is_training: bool) -> list[dict[str, Any]]:
        texts = [[row["text"] for row in rows]]
        if "text_pair" in rows[0]:
            texts.append([row["text_pair"] for row in rows])
        columns = self.tokenizer(*texts, truncation=True, max_length=self.max_length, padding="max_length")
        return [
            {name: column[number] for name, column in columns.items()} | {"labels": self.target(row)}
            for number, row in enumerate(rows)
        ]

    def predict(self, trainer: Any, rows: Rows) -> Any:
        return trainer.predict(self.encode(rows, False)).predictions

    def score(self, trainer: Any, splits: dict[str, Any]) -> dict[str, float]:
        logits = self.predict(trainer, splits["test"])
        return score_classes([self.labels[one] for one in logits.argmax(-1)], [row["label"] for row in splits["test"]])


class Numbers(Classes):
    """``run_glue.py`` on STS-B: a number for a pair."""

    def target(self, row: dict[str, Any]) -> Any:
        return float(row["score"])

    def score(self, trainer: Any, splits: dict[str, Any]) -> dict[str, float]:
        guesses = self.predict(trainer, splits["test"])[:, 0]
        return score_numbers(guesses.tolist(), [float(row["score"]) for row in splits["test"]])


class Relations(Classes):
    """``run_glue.py`` on texts whose marks are tokens of their own."""

    def build(self, model: str) -> Any:
        network = super().build(model)
        self.tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
        network.resize_token_embeddings(len(self.tokenizer))
        return network

    def encode(self, rows: Rows, is_training: bool) -> list[dict[str, Any]]:
        return super().encode([row | {"text": mark_entities(row)} for row in rows], is_training)

    def target(self, row: dict[str, Any]) -> Any:
        return self.labels.index(row["relation"])

    def score(self, trainer: Any, splits: dict[str, Any]) -> dict[str, float]:
        logits = self.predict(trainer, splits["test"])
        return score_relations(
            [self.labels[one] for one in logits.argmax(-1)], [row["relation"] for row in splits["test"]]
        )


class Tags(Classes):
    """``run_ner.py``: a tag for the first token of each word."""

    kind: Any = transformers.AutoModelForTokenClassification

    def __init__(self, tokenizer: Any, labels: Sequence[str], max_length: int) -> None:
        super().__init__(tokenizer, labels, max_length)
        self.collate = transformers.DataCollatorForTokenClassification(tokenizer)

    def encode(self, rows: Rows, is_training: bool) -> list[dict[str, Any]]:
        words = [row["tokens"] for row in rows]
        columns = self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=self.max_length)
        return [
            {name: column[number] for name, column in columns.items()}
            | {"labels": self._align(columns.word_ids(number), row["tags"])}
            for number, row in enumerate(rows)
        ]

    def _align(self, words: Sequence[int | None], tags: Sequence[str]) -> list[int]:
        previous = [None, *words]
        return [
            IGNORE_INDEX if word is None or word == before else self.labels.index(tags[word])
            for word, before in zip(words, previous, strict=False)
        ]

    def score(self, trainer: Any, splits: dict[str, Any]) -> dict[str, float]:
        found = trainer.predict(self.encode(splits["test"], False))
        guesses, truth = [], [row["tags"] for row in splits["test"]]
        for best, row, tags in zip(found.predictions.argmax(-1), found.label_ids, truth, strict=True):
            read = [self.labels[one] for one, label in zip(best, row, strict=True) if label != IGNORE_INDEX]
            guesses.append(read + ["O"] * (len(tags) - len(read)))  # words behind the maximum length
        return score_tags(guesses, truth)


class Answers(Classes):
    """``run_qa.py``: the first and the last token of the answer, in windows of the context."""

    kind: Any = transformers.AutoModelForQuestionAnswering
    targets = ("start_positions", "end_positions")

    def build(self, model: str) -> Any:
        return self.kind.from_pretrained(model)

    def encode(self, rows: Rows, is_training: bool) -> list[dict[str, Any]]:
        encode = encode_questions if is_training else encode_contexts
        return encode(self.tokenizer, rows, self.max_length)

    def score(self, trainer: Any, splits: dict[str, Any]) -> dict[str, float]:
        windows = self.encode(splits["test"], False)
        names = self.tokenizer.model_input_names
        inputs = [{name: window[name] for name in names if name in window} for window in windows]
        start, end = trainer.predict(inputs).predictions[:2]
        return score_question_outputs(start, end, windows, splits["test"])


class Intents(Classes):
    """JointBERT (Chen et al. 2019): the intent of the first token, and a tag for the first token of each word."""

    targets = ("labels", "tags")

    def build(self, model: str) -> Any:
        return JointModel(model, self.labels)

    def encode(self, rows: Rows, is_training: bool) -> list[dict[str, Any]]:
        return encode_intents(self.tokenizer, rows, self.labels, self.max_length)

    def score(self, trainer: Any, splits: dict[str, Any]) -> dict[str, float]:
        def run(rows: Rows) -> tuple[Any, Any, Any]:
            found = trainer.predict(self.encode(rows, False))
            intents, words = found.predictions
            return softmax(torch.from_numpy(intents), -1).numpy(), words, found.label_ids[1] != IGNORE_INDEX

        return score_intent_outputs(run, splits, self.labels)


class Texts(Classes):
    """``run_summarization.py``: a text for a text; ``Seq2SeqTrainer`` trains as ``Trainer`` does."""

    def __init__(self, tokenizer: Any, labels: Sequence[str], max_length: int) -> None:
        super().__init__(tokenizer, labels, max_length)
        tokenizer.backend_tokenizer.no_padding()  # MiniLM's pads everything to 128 tokens

    def build(self, model: str) -> Any:
        network = build_two(model, self.tokenizer)
        self.collate = transformers.DataCollatorForSeq2Seq(self.tokenizer, model=network)
        return network

    def encode(self, rows: Rows, is_training: bool) -> list[dict[str, Any]]:
        return encode_pairs(self.tokenizer, rows, self.max_length)

    def score(self, trainer: Any, splits: dict[str, Any]) -> dict[str, float]:
        network = trainer.model.eval()

        def write(texts: list[str]) -> tuple[list[str], int]:
            inputs = self.tokenizer(
                texts, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt"
            )
            ids = network.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                max_new_tokens=MAX_TARGET, no_repeat_ngram_size=NO_REPEAT, do_sample=False,
            )[:, 1:]  # fmt: skip
            tokens = int((ids != self.tokenizer.pad_token_id).sum())
            return self.tokenizer.batch_decode(ids, skip_special_tokens=True), tokens

        scores, self.generation_rate = score_generation(write, splits["test"])
        return scores


HEADS = {
    "classes": Classes,
    "numbers": Numbers,
    "relations": Relations,
    "tags": Tags,
    "answers": Answers,
    "intents": Intents,
    "instructions": Instructions,
    "texts": Texts,
}

if __name__ == "__main__":
    child_main(train)

"""The task: words to windows of tokens, logits to tags without contradictions, and tags to entities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from typing_extensions import override

from fastserve_core.errors import DataError, OptionError, did_you_mean
from fastserve_core.tasks import (
    Arrays,
    BatchLoss,
    Column,
    DistillationTarget,
    Encoded,
    Encoder,
    LossOptions,
    MetricSpec,
    Row,
    object_schema,
    read_label,
    read_words,
)
from fastserve_text.base import TEXT, TextOptions, TextTask, sorted_labels
from fastserve_text.losses import cross_entropy
from fastserve_text.token_classification import tag_schemes
from fastserve_text.token_classification.aggregation import STRATEGIES, word_log_probabilities
from fastserve_text.token_classification.encoding import WordAlignment, WordEncoder, cut_window, merge_windows
from fastserve_text.token_classification.tag_schemes import OUTSIDE
from fastserve_text.token_classification.words import split_words
from fastserve_text.windows import Frame, WindowExamples, WindowLayout

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Matrix = np.ndarray[Any, Any]


@dataclass
class Options(TextOptions):
    """``max_length`` is the number of tokens of a window, of which neighbours share ``stride``.

    By default they share a quarter. Texts of any length are read. ``aggregation_strategy`` is how the tokens of a word,
    and the words of an entity, become one.
    """

    stride: int | None = None
    aggregation_strategy: str = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.layout
        if self.aggregation_strategy not in STRATEGIES:
            hint = did_you_mean(self.aggregation_strategy, STRATEGIES)
            raise OptionError(
                f"task.aggregation_strategy must be one of {', '.join(STRATEGIES)}, "
                f"not '{self.aggregation_strategy}'{hint}"
            )

    @property
    def layout(self) -> WindowLayout:
        """How texts are cut into windows."""
        return WindowLayout(self.max_length, self.max_length // 4 if self.stride is None else self.stride)


class WindowScores(NamedTuple):
    """The logits of a window of a row, of shape (tokens, labels), and where it begins in the row."""

    alignment: WordAlignment
    body: int
    start: int
    logits: Matrix


class TokenClassification(TextTask):
    """Labels every word of a text of any length, and groups the labels into entities."""

    name: ClassVar[str] = "token_classification"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        Column("tokens", usual_names=("words",)),
        Column("tags", is_label=True, usual_names=("ner_tags", "labels", "ner")),
    )
    head: ClassVar[str] = "ForTokenClassification"
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "f1": MetricSpec(unit="%"),
        "accuracy": MetricSpec(unit="%"),  # of words, of which a split has more than rows
    }
    model_computes_loss: ClassVar[bool] = False
    loss_options: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(),)
    request_parameters: ClassVar[Mapping[str, str]] = {name: name for name in ("aggregation_strategy", "stride")}

    @override
    @property
    def request_columns(self) -> tuple[Column, ...]:
        return (TEXT,)  # which is split into words

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def check(self, row: Row) -> str | None:
        for name in ("tokens", "tags"):
            try:
                row[name] = read_words(row.get(name))
            except ValueError as error:
                return f"'{name}' {error}"
        row["tags"] = tag_schemes.begin_entities([read_label(tag) for tag in row["tags"]])
        if len(row["tokens"]) != len(row["tags"]):
            return f"{len(row['tokens'])} tokens but {len(row['tags'])} tags"
        return None

    @override
    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        found = {tag for row in rows for tag in row["tags"]}
        if len(found) < 2:
            raise DataError(f"all tags of the training rows are '{next(iter(found))}': two are needed")
        return sorted_labels(found)

    @override
    def stratify_key(self, row: Row) -> str:
        return " ".join(sorted({tag for tag in row["tags"] if tag != OUTSIDE})[:1])

    @override
    def read_input(self, value: Any) -> Row:
        words = value.get("text") if isinstance(value, Mapping) else value
        try:
            if isinstance(value, Mapping) and "tokens" in value:
                words = read_words(value["tokens"])
        except ValueError as error:
            raise DataError(f"an input cannot be used: 'tokens' {error}") from error
        if isinstance(words, str) and (bounds := split_words(words)):
            return {"tokens": [words[start:end] for start, end in bounds], "text": words, "bounds": bounds}
        if not isinstance(words, (list, tuple)) or not words or not all(isinstance(one, str) for one in words):
            raise DataError("an input cannot be used: give a text, or a list of words as 'tokens'")
        return {"tokens": list(words)}

    @override
    def make_rows(self, inputs: Sequence[Any], targets: Sequence[Any] | None = None) -> list[Row]:
        if targets is not None:  # which are for the words between blanks
            inputs = [value.split() if isinstance(value, str) else value for value in inputs]
        return super().make_rows(inputs, targets)

    @override
    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        return (" ".join(row["tokens"]) for row in rows)

    # -- the model and its batches -------------------------------------------------------------------

    @override
    def encoder(self, folder: Path) -> Encoder:
        tokenizer = self.prepare_padding(folder)
        tokenizer.no_truncation()
        self._frame = _find_frame(tokenizer)
        return WordEncoder(tokenizer, self.labels)

    @override
    def windows(self, encoded: Encoded) -> Sequence[Encoded]:
        layout, frame = self.options.layout, encoded.decode_state.frame
        starts = layout.starts(len(encoded), frame)
        return (encoded,) if len(starts) == 1 else [Encoded(layout.cut(encoded, frame, start)) for start in starts]

    @override
    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        layout, frame = self.options.layout, self._frame
        known = getattr(encoded, "lengths", None)
        if max(map(len, encoded) if known is None else known, default=0) <= layout.max_length:
            return encoded

        def make_window(row: Encoded, start: int) -> Encoded:
            return row if len(row) <= layout.max_length else cut_window(layout, row, frame, start)

        return WindowExamples(encoded, layout, lambda _: frame, make_window)

    # -- learning and answers ------------------------------------------------------------------------

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        return cross_entropy(outputs["logits"], batch["labels"], options)

    @cached_property
    def _forbidden(self) -> tuple[Matrix, Matrix]:
        return tag_schemes.forbidden_transitions(self.labels)

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        answers, row = [], 0
        for encoded in batch:
            frame, body = _find_body(encoded)
            starts = self.options.layout.starts(len(encoded), frame)
            windows = [
                (start, self._body_logits(outputs, row + number, frame, body - start))
                for number, start in enumerate(starts)
            ]
            answers.append(self._make_answer(encoded.decode_state, merge_windows(windows, body)))
            row += len(starts)
        return answers

    def _body_logits(self, outputs: Arrays, row: int, frame: Frame, count: int) -> Matrix:
        """Return the logits of a window's tokens, at most ``count``, without those that every window repeats."""
        room = self.options.layout.room(frame)
        logits: Matrix = outputs["logits"][row, frame.prefix : frame.prefix + min(count, room)]
        return logits

    def _make_answer(self, alignment: WordAlignment, logits: Matrix) -> dict[str, Any]:
        tags, scores = self._choose_tags(alignment, logits)
        words = [
            {"word": word, "tag": tag, "score": score}
            for word, tag, score in zip(alignment.words, tags, scores, strict=True)
        ]
        entities, spans = [], []
        for kind, start, end in tag_schemes.find_entities(tags, self.labels):
            first, last = alignment.bounds[start][0], alignment.bounds[end - 1][1]
            text, score = alignment.text[first:last], fmean(scores[start:end])
            entities.append({"type": kind, "text": text, "start": start, "end": end})
            spans.append({"entity_group": kind, "word": text, "start": first, "end": last, "score": score})
        if self.options.aggregation_strategy == "none":
            spans = list(_word_spans(alignment, words))
        return {"tags": tags, "words": words, "entities": entities, "spans": spans}

    def _choose_tags(self, alignment: WordAlignment, logits: Matrix) -> tuple[list[str], list[float]]:
        """Return the tag of each word and its probability; those of words without tokens are ``O`` and 0."""
        import numpy as np

        tags, scores = [OUTSIDE] * len(alignment.words), [0.0] * len(alignment.words)
        if alignment.first_tokens:
            strategy = self.options.aggregation_strategy
            probabilities = word_log_probabilities(logits, alignment.first_tokens, strategy)
            chosen = tag_schemes.best_tags(probabilities, *self._forbidden)
            found = np.exp(probabilities[np.arange(len(chosen)), chosen]).tolist()
            for word, number, score in zip(alignment.word_numbers, chosen, found, strict=True):
                tags[word], scores[word] = self.labels[number], score
        return tags, scores

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        statistics: list[Any] = []
        for row, encoded in enumerate(batch):
            if isinstance(encoded.decode_state, WordAlignment):
                frame, body = _find_body(encoded)
                logits = self._body_logits(outputs, row, frame, body)
                statistics.append(self._compare(encoded.decode_state, logits))
                continue
            alignment, start = encoded.decode_state
            room = len(encoded) - alignment.frame.prefix - alignment.frame.suffix
            logits = self._body_logits(outputs, row, alignment.frame, room)
            statistics.append(WindowScores(alignment, start + room, start, logits))
        return statistics

    def _compare(self, alignment: WordAlignment, logits: Matrix) -> tuple[list[str], list[str]]:
        return self._choose_tags(alignment, logits)[0], list(alignment.tags)

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        from seqeval.metrics import accuracy_score, f1_score

        guesses, truth = [list(column) for column in zip(*self._join_windows(statistics), strict=True)]
        scores = {"accuracy": float(accuracy_score(truth, guesses))}
        marked = [[tag_schemes.mark_entities(row, self.labels) for row in rows] for rows in (truth, guesses)]
        if any(tag != OUTSIDE for row in marked[0] for tag in row):
            scores["f1"] = float(f1_score(*marked, zero_division=0))
        return scores

    def _join_windows(self, statistics: Sequence[Any]) -> Iterator[tuple[list[str], list[str]]]:
        rows: dict[str, list[WindowScores]] = {}
        for one in statistics:
            if isinstance(one, WindowScores):
                rows.setdefault(one.alignment.key, []).append(one)
            else:
                yield one
        for windows in rows.values():
            windows.sort(key=lambda window: window.start)
            body = max(window.body for window in windows)
            logits = merge_windows([(window.start, window.logits) for window in windows], body)
            yield self._compare(windows[0].alignment, logits)

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return scores.get("f1", scores["accuracy"])

    @override
    def answer_schema(self) -> dict[str, Any]:
        text, number, tag = {"type": "string"}, {"type": "number"}, {"enum": sorted({*self.labels, OUTSIDE})}
        word = object_schema(word=text, tag=tag, score=number)
        index, character = (
            {"type": "integer", "minimum": 0, "description": f"counted in {unit}"} for unit in ("words", "characters")
        )
        entity = object_schema(type=text, text=text, start=index, end=index)
        place: dict[str, Any] = {"word": text, "start": character, "end": character, "score": number}
        span = {"anyOf": [object_schema(entity_group=text, **place), object_schema(entity=tag, index=index, **place)]}
        lists = {"tags": tag, "words": word, "entities": entity, "spans": span}
        return object_schema(**{name: {"type": "array", "items": items} for name, items in lists.items()})

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        found = [f"{entity['text']} ({entity['type']})" for entity in answer["entities"]]
        return ", ".join(found) or " ".join(answer["tags"])


def _word_spans(alignment: WordAlignment, words: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each word that is part of an entity, with its tag."""
    for index, (word, (start, end)) in enumerate(zip(words, alignment.bounds, strict=True)):
        if word["tag"] != OUTSIDE:
            place = {"word": word["word"], "start": start, "end": end, "score": word["score"]}
            yield {"entity": word["tag"], "index": index, **place}


def _find_frame(tokenizer: Any) -> Frame:
    """Return the special tokens around a text."""
    word_ids = tokenizer.encode(["a"], is_pretokenized=True).word_ids
    inside = [place for place, word in enumerate(word_ids) if word is not None]
    return Frame(inside[0], len(word_ids) - inside[-1] - 1) if inside else Frame(0, 0)


def _find_body(encoded: Encoded) -> tuple[Frame, int]:
    """Return the frame of an encoded row, and the number of tokens between."""
    frame = encoded.decode_state.frame
    return frame, len(encoded) - frame.prefix - frame.suffix

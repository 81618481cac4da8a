"""The options of the task."""

from __future__ import annotations

from dataclasses import dataclass

from fastserve_core.errors import ErrorCollector, OptionError
from fastserve_text.seq2seq.metrics import METRICS
from fastserve_text.sequence_task import check_metric

MIN_LENGTH = 4


@dataclass
class Options:
    """Lengths are in tokens.

    Attributes:
        max_length: Maximum length of the source with its prefix; longer ones are cut.
        max_target_length: Maximum length of a target in training; longer ones are cut and counted.
        prefix: Text before every source, such as T5's ``summarize: ``.
        max_new_tokens: Maximum length of an answer.
        min_new_tokens: Minimum length of an answer.
        num_beams: Number of beams of the search; 1 is greedy.
        length_penalty: Exponent of the length by which the score of a beam is divided; above 0 favours long answers.
        no_repeat_ngram_size: Length of token sequences that an answer has once at most; 0 allows all.
        temperature: Temperature of sampling; 0 takes the likeliest token.
        eval_rows: Number of validation rows that are answered at each evaluation of a training; 0 for the loss alone.
        metric: Score by which models are compared.
    """

    max_length: int = 512
    max_target_length: int = 128
    prefix: str = ""
    max_new_tokens: int = 128
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: float = 0.0
    eval_rows: int = 64
    metric: str = "rougeL"

    def __post_init__(self) -> None:
        faults = ErrorCollector()
        bounds = {"max_length": MIN_LENGTH, "max_target_length": MIN_LENGTH, "max_new_tokens": 1, "num_beams": 1}
        bounds |= dict.fromkeys(("min_new_tokens", "no_repeat_ngram_size", "eval_rows", "temperature"), 0)
        for name, least in bounds.items():
            with faults.collect():
                if getattr(self, name) < least:
                    raise OptionError(f"task.{name} must be at least {least}, not {getattr(self, name)}")
        with faults.collect():
            if self.min_new_tokens > self.max_new_tokens:
                raise OptionError(
                    f"task.min_new_tokens={self.min_new_tokens} is more than task.max_new_tokens={self.max_new_tokens}"
                )
        with faults.collect():
            if self.num_beams > 1 and self.temperature:
                raise OptionError("task.num_beams and task.temperature exclude each other: beams are not sampled")
        with faults.collect():
            check_metric(self.metric, METRICS)
        faults.raise_if_any()

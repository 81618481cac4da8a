"""The scores of generated texts: ROUGE by rouge-score, BLEU and chrF by sacrebleu, and their length."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastserve_core.tasks import MetricSpec
from fastserve_text.recognition import CJK

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
METRICS: Mapping[str, MetricSpec] = {
    **dict.fromkeys(ROUGE, MetricSpec(unit="%")),
    "bleu": MetricSpec(),
    "chrf": MetricSpec(),
}
"""The scores by which models can be compared."""
DESCRIPTIONS: Mapping[str, MetricSpec] = {
    "length_ratio": MetricSpec(),
    "repetition": MetricSpec(higher_is_better=False, unit="%"),
    "loss": MetricSpec(higher_is_better=False),
}
"""Scores that describe the answers, and the loss, which is known while a model is trained."""
WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")
MIN_STEMMED = 4
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


@dataclass(frozen=True)
class AnswerStatistic:
    """A generated text beside the texts that it is compared with."""

    answer: str
    references: Sequence[str]


@dataclass(frozen=True)
class LossStatistic:
    """The summed negative log-likelihood of a target's tokens, and their number."""

    loss: float
    tokens: int


class WordTokenizer:
    """Words in lower case, English ones stemmed, and single characters of scripts without blanks between words.

    rouge-score's own tokenizer keeps nothing but ``a`` to ``z`` and digits; on texts of these the two are equal.
    """

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stemmer = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return [self._stem(word) for word in WORD.findall(text.lower())]

    def _stem(self, word: str) -> str:
        stemmed: str = self._stemmer.stem(word) if word.isascii() and len(word) >= MIN_STEMMED else word
        return stemmed


def score_answers(pairs: Sequence[AnswerStatistic]) -> dict[str, float]:
    """Return the scores of generated texts; of several references, ROUGE counts the best one of each text."""
    return {**_score_rouge(pairs), **_score_corpus(pairs), **_describe(pairs)}


def score_losses(losses: Sequence[LossStatistic]) -> dict[str, float]:
    """Return the mean loss of a token."""
    return {"loss": math.fsum(one.loss for one in losses) / max(1, sum(one.tokens for one in losses))}


def _score_rouge(pairs: Sequence[AnswerStatistic]) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE), tokenizer=WordTokenizer())
    totals = dict.fromkeys(ROUGE, 0.0)
    for pair in pairs:
        references = [_split_sentences(text) for text in pair.references]
        found = scorer.score_multi(references, _split_sentences(pair.answer))
        for name in ROUGE:
            totals[name] += found[name].fmeasure
    return {name: total / len(pairs) for name, total in totals.items()}


def _split_sentences(text: str) -> str:
    """Return a text with a sentence a line, as rougeLsum reads it; the other scores ignore line breaks."""
    return "\n".join(SENTENCE_END.split(text.strip()))


def _score_corpus(pairs: Sequence[AnswerStatistic]) -> dict[str, float]:
    import sacrebleu

    answers = [pair.answer for pair in pairs]
    most = max(len(pair.references) for pair in pairs)
    streams: list[Any] = [
        [pair.references[number] if number < len(pair.references) else None for pair in pairs] for number in range(most)
    ]
    texts = "".join(reference for pair in pairs for reference in pair.references)
    tokenize = "zh" if len(re.findall(f"[{CJK}]", texts)) * 2 > len(re.findall(r"\w", texts)) else "13a"
    return {
        "bleu": sacrebleu.corpus_bleu(answers, streams, tokenize=tokenize).score,
        "chrf": sacrebleu.corpus_chrf(answers, streams).score,
    }


def _describe(pairs: Sequence[AnswerStatistic]) -> dict[str, float]:
    """Return the length relative to the first references, and the share of words that repeat the two before them."""
    words = [WORD.findall(pair.answer.lower()) for pair in pairs]
    expected = sum(len(WORD.findall(pair.references[0])) for pair in pairs)
    triples = [list(zip(one, one[1:], one[2:], strict=False)) for one in words]
    total = sum(map(len, triples))
    return {
        "length_ratio": sum(map(len, words)) / max(1, expected),
        "repetition": 1 - sum(len(set(one)) for one in triples) / total if total else 0.0,
    }

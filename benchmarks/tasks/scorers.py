"""The published rules of scoring, written without our tasks' code, so that both models are scored by another."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

CJK = r"[\u3400-\u9fff\uf900-\ufaff]"


def mark_entities(row: dict[str, Any]) -> str:
    """Return the text of a row with ``<e1>`` and ``<e2>`` around its entities, as SemEval's files have them."""
    text, spans = row["text"], {"e1": row["head"], "e2": row["tail"]}
    for name, (start, end) in sorted(spans.items(), key=lambda span: -span[1][0]):  # the last one first
        text = f"{text[:start]}<{name}>{text[start:end]}</{name}>{text[end:]}"
    return text


def score_classes(guesses: Sequence[Any], truth: Sequence[Any]) -> dict[str, float]:
    """Return the accuracy and the macro F1."""
    from sklearn.metrics import accuracy_score, f1_score

    return {
        "accuracy": float(accuracy_score(truth, guesses)),
        "macro_f1": float(f1_score(truth, guesses, average="macro", zero_division=0)),
    }


def score_numbers(guesses: Sequence[float], truth: Sequence[float]) -> dict[str, float]:
    """Return the correlations after Pearson and Spearman."""
    from scipy.stats import pearsonr, spearmanr

    return {
        "pearson": float(pearsonr(guesses, truth).statistic),
        "spearman": float(spearmanr(guesses, truth).statistic),
    }


def score_tags(guesses: Sequence[list[str]], truth: Sequence[list[str]]) -> dict[str, float]:
    """Return the F1 of entities after CoNLL (seqeval)."""
    from seqeval.metrics import f1_score

    return {"f1": float(f1_score(list(truth), list(guesses), zero_division=0))}


def score_relations(guesses: Sequence[str], truth: Sequence[str], negative: str = "Other") -> dict[str, float]:
    """Return the macro F1 over relations of SemEval-2010 task 8: directions count, ``Other`` is left out."""
    kinds = sorted({name.partition("(")[0] for name in truth} - {negative})
    values = []
    for kind in kinds:
        right = sum(guess == name and name.startswith(f"{kind}(") for guess, name in zip(guesses, truth, strict=True))
        guessed = sum(guess.partition("(")[0] == kind for guess in guesses)
        true = sum(name.partition("(")[0] == kind for name in truth)
        precision, recall = right / guessed if guessed else 0.0, right / true
        values.append(2 * precision * recall / (precision + recall) if right else 0.0)
    return {"macro_f1": sum(values) / len(values)}


def score_answers(guesses: Sequence[str], truth: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the exact match and the F1 of SQuAD; Chinese text counts by character."""
    pairs = list(zip(guesses, truth, strict=True))
    exact = [max(_words(guess) == _words(one) for one in answers) for guess, answers in pairs]
    shared = [max(_overlap(guess, one) for one in answers) for guess, answers in pairs]
    return {"em": sum(exact) / len(exact), "f1": sum(shared) / len(shared)}


def _words(text: str) -> list[str]:
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    without = re.sub(r"\b(a|an|the)\b", " ", kept)
    return re.sub(f"({CJK})", r" \1 ", without).split()


def _overlap(guess: str, answer: str) -> float:
    ours, theirs = _words(guess), _words(answer)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * shared / (len(ours) + len(theirs))


def score_intents(
    guesses: Sequence[str], slots: Sequence[list[str]], truth: Sequence[str], true_slots: Sequence[list[str]]
) -> dict[str, float]:
    """Return the accuracy of intents, the F1 of slots, and the share of sentences with both right."""
    right = [guess == name for guess, name in zip(guesses, truth, strict=True)]
    whole = [one and mine == theirs for one, mine, theirs in zip(right, slots, true_slots, strict=True)]
    return {
        "intent": sum(right) / len(right),
        "slot_f1": score_tags(slots, true_slots)["f1"],
        "whole": sum(whole) / len(whole),
    }


def score_scope(
    guesses: Sequence[str], confidences: Sequence[float], truth: Sequence[str], threshold: float, label: str = "oos"
) -> dict[str, float]:
    """Return the accuracy in scope, the recall out of scope, and the area under the curve of the confidences."""
    from sklearn.metrics import roc_auc_score

    answered = [guess if sure >= threshold else label for guess, sure in zip(guesses, confidences, strict=True)]
    inside = [guess == name for guess, name in zip(answered, truth, strict=True) if name != label]
    outside = [guess == label for guess, name in zip(answered, truth, strict=True) if name == label]
    return {
        "in_scope": sum(inside) / len(inside),
        "oos_recall": sum(outside) / len(outside),
        "auroc": float(roc_auc_score([name != label for name in truth], list(confidences))),
    }


def score_texts(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return ROUGE by rouge-score with its stemmer; of several references the best one counts."""
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, use_stemmer=True)
    found = [scorer.score_multi(wanted, answer) for answer, wanted in zip(answers, references, strict=True)]
    return {name: sum(one[name].fmeasure for one in found) / len(found) for name in names}

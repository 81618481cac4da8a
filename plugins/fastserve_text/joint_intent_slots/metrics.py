"""The scores of intents, slots and the decision on texts out of scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from fastserve_core.tasks import MetricSpec
from fastserve_text.tagging.tag_schemes import OUTSIDE

METRICS: Mapping[str, MetricSpec] = {
    "whole": MetricSpec(unit="%", is_share_of_rows=True),
    "intent": MetricSpec(unit="%", is_share_of_rows=True),
    "slot_f1": MetricSpec(unit="%"),
    "in_scope": MetricSpec(unit="%", is_share_of_rows=True),
    "oos_recall": MetricSpec(unit="%"),
    "open_f1": MetricSpec(unit="%"),
    "auroc": MetricSpec(),
    "fpr95": MetricSpec(unit="%", higher_is_better=False),
}


class Verdict(NamedTuple):
    """A labelled row beside the model's answer.

    Attributes:
        intent: Its intent; ``None`` if it is out of scope.
        found_intent: The likeliest intent, whatever the decision on the scope is.
        tags: Its BIO tags; empty if it has none.
        found_tags: Those that were found.
        margin: The log-odds that it is in scope; ``None`` if the model does not decide.
    """

    intent: str | None
    found_intent: str
    tags: Sequence[str]
    found_tags: Sequence[str]
    margin: float | None

    @property
    def is_in_scope(self) -> bool:
        """Whether the row has one of the intents."""
        return self.intent is not None

    @property
    def is_right(self) -> bool:
        """Whether its intent was found."""
        return self.intent == self.found_intent


def compute_metrics(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return the scores that the rows allow.

    ``intent``, ``slot_f1`` and ``whole`` count the rows in scope, whatever the model thinks of their scope; in
    ``in_scope`` a row that is taken to be out of scope is wrong. ``open_f1`` is the macro F1 of the intents and of one
    more class, the rows out of scope (Shu et al. 2017).
    """
    inside = [verdict for verdict in verdicts if verdict.is_in_scope]
    scores: dict[str, float] = {}
    if inside:
        scores["intent"] = fmean(verdict.is_right for verdict in inside)
    scores |= _score_slots(verdicts)
    if verdicts and all(verdict.margin is not None for verdict in verdicts):
        scores |= _score_scope(verdicts)
    return scores


def _score_slots(verdicts: Sequence[Verdict]) -> dict[str, float]:
    from seqeval.metrics import f1_score

    tagged = [verdict for verdict in verdicts if verdict.tags and verdict.is_in_scope]
    truth, found = [list(one.tags) for one in tagged], [list(one.found_tags) for one in tagged]
    if not any(tag != OUTSIDE for tags in truth for tag in tags):
        return {}
    whole = fmean(one.is_right and list(one.tags) == list(one.found_tags) for one in tagged)
    return {"whole": whole, "slot_f1": float(f1_score(truth, found, zero_division=0))}


def _score_scope(verdicts: Sequence[Verdict]) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score, roc_curve

    truth = [verdict.is_in_scope for verdict in verdicts]
    margins = [verdict.margin or 0.0 for verdict in verdicts]
    accepted = [margin >= 0 for margin in margins]
    scores: dict[str, float] = {}
    if any(truth):
        scores["in_scope"] = fmean(
            verdict.is_right and taken for verdict, taken in zip(verdicts, accepted, strict=True) if verdict.is_in_scope
        )
    if not all(truth):
        scores["oos_recall"] = fmean(
            not taken for verdict, taken in zip(verdicts, accepted, strict=True) if not verdict.is_in_scope
        )
    if any(truth) and not all(truth):
        false_positives, true_positives, _ = roc_curve(truth, margins)
        answers = [one.found_intent if taken else None for one, taken in zip(verdicts, accepted, strict=True)]
        scores["open_f1"] = _score_open([one.intent for one in verdicts], answers)
        scores["auroc"] = float(roc_auc_score(truth, margins))
        scores["fpr95"] = float(false_positives[true_positives >= 0.95].min())
    return scores


def _score_open(truth: Sequence[str | None], found: Sequence[str | None]) -> float:
    """Return the macro F1 over the true intents and the rows out of scope, which are ``None``."""
    from sklearn.metrics import f1_score

    numbers = {name: number for number, name in enumerate(dict.fromkeys([*truth, *found]))}
    true, guessed = ([numbers[name] for name in names] for names in (truth, found))
    return float(f1_score(true, guessed, labels=sorted(set(true)), average="macro", zero_division=0))

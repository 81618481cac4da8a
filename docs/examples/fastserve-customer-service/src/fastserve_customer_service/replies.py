"""The rules: which reply an intent gets, which slots it needs, and when a person takes over."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_VALUE_WORDS = 3
"""A message of at most so many words, without a slot, is taken to be the value that was asked for."""


class RulesError(ValueError):
    """The file of replies cannot be used."""


@dataclass(frozen=True)
class Rule:
    """The reply of an intent, and the questions for the slots that it needs."""

    reply: str
    needs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pending:
    """An intent that waits for the value of a slot."""

    intent: str
    slots: Mapping[str, str]
    slot: str


@dataclass(frozen=True)
class Turn:
    """The reaction to a message: ``action`` is ``reply``, ``ask`` or ``hand_over``."""

    action: str
    text: str
    pending: Pending | None = None


@dataclass(frozen=True)
class Rules:
    """All replies of a shop."""

    intents: Mapping[str, Rule]
    hand_over: str

    def react(self, message: str, answer: Mapping[str, Any], pending: Pending | None = None) -> Turn:
        """Return the reaction to a message.

        Args:
            message: The text.
            answer: The answer of the model: intent, slots, and the probability that the message is in scope.
            pending: The intent that waits for a slot, if the last turn asked for one.
        """
        slots = {slot["slot"]: slot["value"] for slot in answer["slots"]}
        if pending is not None:
            if pending.slot not in slots and not slots and len(message.split()) <= MAX_VALUE_WORDS:
                slots = {pending.slot: message.strip()}
            if pending.slot in slots:
                return self._fill(pending.intent, {**pending.slots, **slots})
        if answer.get("in_scope", 1.0) < 0.5 or answer["intent"]["name"] not in self.intents:
            return Turn("hand_over", self.hand_over)
        return self._fill(answer["intent"]["name"], slots)

    def _fill(self, intent: str, slots: Mapping[str, str]) -> Turn:
        rule = self.intents[intent]
        for slot, question in rule.needs.items():
            if slot not in slots:
                return Turn("ask", question, Pending(intent, slots, slot))
        return Turn("reply", rule.reply.format_map(slots))


def load_rules(path: Path) -> Rules:
    """Read a file of replies.

    Raises:
        RulesError: A reply is missing, or has a slot that its intent does not ask for.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rules = {str(name): Rule(**rule) for name, rule in content["intents"].items()}
        hand_over = str(content["hand_over"])
    except (yaml.YAMLError, OSError, KeyError, TypeError, AttributeError) as error:
        raise RulesError(f"{path} needs 'hand_over', and 'intents' with a 'reply' each: {error}") from error
    for name, rule in rules.items():
        unknown = [slot for _, slot, _, _ in string.Formatter().parse(rule.reply) if slot and slot not in rule.needs]
        if unknown:
            raise RulesError(f"{path}: the reply of '{name}' has the slot '{unknown[0]}', which its 'needs' lacks")
    return Rules(rules, hand_over)

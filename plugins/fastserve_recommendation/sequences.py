"""Sequences of items by user, in the order of time, and their leave-one-out split."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastserve_core.errors import DataError
from fastserve_core.tasks import Row
from fastserve_recommendation.interactions import ITEM, TIME, USER

NEXT, ITEMS = "next", "items"
SEED = 0
"""The seed of the choice of users for the validation."""
MIN_ITEMS = 3
"""A user with fewer items is in train only: one item each is needed for the history, validation and test."""


@dataclass
class Histories:
    """The items of each user in the order of time, and counts to report.

    Attributes:
        items: The items by user, the users in the order of the data.
        repeated: The number of interactions that were left out as copies.
        untimed: The number of interactions without a time, in data that has times.
        tied: The number of users with equal times.
        has_times: Whether the data has times.
    """

    items: dict[str, list[str]] = field(default_factory=dict)
    repeated: int = 0
    untimed: int = 0
    tied: int = 0
    has_times: bool = False

    def describe(self, split: str) -> list[str]:
        """Return a message for each thing that the user should know."""
        messages = []
        if not self.has_times:
            messages.append(f"{split}: without times, the items of a user are in the order of the file")
        if self.untimed:
            messages.append(
                f"{split}: {self.untimed} interactions have no time and follow those before them in the file"
            )
        if self.tied:
            messages.append(f"{split}: {self.tied} users have items of equal times, kept in the order of the file")
        if self.repeated:
            kind = "equal user, item and time" if self.has_times else "the same item twice in succession"
            messages.append(f"{split}: {self.repeated} repeated interactions are left out ({kind})")
        return messages


def collect_histories(rows: Iterable[Row]) -> Histories:
    """Collect the items of each user; the order is stable, and equal rows count once."""
    found = Histories()
    events: dict[str, list[tuple[float | None, str]]] = {}
    for row in rows:
        events.setdefault(row[USER], []).append((row[TIME], row[ITEM]))
    found.has_times = any(moment is not None for listed in events.values() for moment, _ in listed)
    for user, listed in events.items():
        found.items[user] = _order(listed, found)
    return found


def _order(listed: list[tuple[float | None, str]], found: Histories) -> list[str]:
    if not found.has_times:
        items = [item for number, (_, item) in enumerate(listed) if not number or listed[number - 1][1] != item]
        found.repeated += len(listed) - len(items)
        return items
    last, timed = float("-inf"), []
    for moment, item in listed:
        found.untimed += moment is None
        last = last if moment is None else moment
        timed.append((last, item))
    unique = list(dict.fromkeys(timed))
    found.repeated += len(timed) - len(unique)
    found.tied += len({moment for moment, _ in unique}) < len(unique)
    return [item for _, item in sorted(unique, key=lambda event: event[0])]


def make_splits(
    splits: Mapping[str, Sequence[Row]], validation_users: int, report: Callable[[str], None]
) -> dict[str, list[Row]]:
    """Make rows of sequences from the interactions of each split.

    Without a given split, the last item of each user is the test, and the one before it the validation, the latter for
    some random users only: those of the others are trained on. A row has the ``items`` of a
    history and the ``next`` one; the rows of a given split have as their history all items of the user in the splits
    before it.

    Args:
        splits: The interactions by split.
        validation_users: The number of users with a validation row, unless that split is given.
        report: Called with a message for each guess and each omission.

    Raises:
        DataError: No user has enough items.
    """
    found = {split: collect_histories(rows) for split, rows in splits.items()}
    for split, histories in found.items():
        for message in histories.describe(split):
            report(message)
    missing = [split for split in ("validation", "test") if split not in found]
    rows: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    known = {user: list(items) for user, items in found["train"].items.items()}
    long = [user for user, items in known.items() if len(items) > len(missing)]
    if missing and len(long) < len(known):
        short = f"{len(known) - len(long)} of {len(known)} users"
        report(f"{short} have fewer than {len(missing) + 1} items, and are in train only")
    chosen = {"test": long, "validation": long}
    if "validation" in missing and len(long) > validation_users:
        chosen["validation"] = sorted(random.Random(SEED).sample(long, validation_users))
        report(f"the validation has {validation_users} of {len(long)} users; the items of the others are in train")
    for split in reversed(missing):
        for user in chosen[split]:
            rows[split].append(_row(user, known[user]))
            known[user].pop()
    rows["train"] = [_row(user, items) for user, items in known.items()]
    for split in ("validation", "test"):
        if split in found:
            rows[split] = _continue(known, found[split].items)
        else:
            for row in rows[split]:
                known[row[USER]].append(row[NEXT])
    for split in missing:
        if not rows[split]:
            raise DataError(
                f"no user has {MIN_ITEMS} items, of which the last is the test and the one before the validation: "
                "give more interactions of each user"
            )
    return rows


def _continue(known: dict[str, list[str]], given: Mapping[str, list[str]]) -> list[Row]:
    """Return the rows of a given split, and add its items to the histories."""
    rows = []
    for user, items in given.items():
        history = known.setdefault(user, [])
        history.extend(items)
        rows.append(_row(user, history))
    return rows


def report_reach(rows: Mapping[str, Sequence[Row]], known: Collection[str], report: Callable[[str], None]) -> None:
    """Report data from which little can be learned: one user, and next items that a model cannot know.

    Args:
        rows: The rows by split.
        known: The items that a model knows.
        report: Called with each message.
    """
    if len(rows["train"]) == 1:
        report("train: all interactions are of one user, so that the items that users share cannot be learned")
    for split in ("validation", "test"):
        missed = sum(row[NEXT] not in known for row in rows[split])
        if missed:
            report(f"{split}: {missed} of {len(rows[split])} next items do not occur in train, and count as misses")


def iterate_items(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the items of rows, as often as they occur."""
    return (item for row in rows for item in (*row[ITEMS], row[NEXT]))


def _row(user: str, items: Sequence[str]) -> dict[str, Any]:
    return {USER: user, ITEMS: list(items[:-1]), NEXT: items[-1]}

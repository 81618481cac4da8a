"""Cuts training rows into splits: evenly over the labels, by groups, or by time."""

from __future__ import annotations

import random
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fastserve_core.data.validation import ValidatedRows
from fastserve_core.errors import DataError

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions


def cut_splits(train: ValidatedRows, options: DataOptions, missing: Sequence[str]) -> dict[str, Sequence[int]]:
    """Choose the training rows of each missing split.

    Args:
        train: The training rows.
        options: The ``data`` node of the config.
        missing: The splits to cut.

    Returns:
        The numbers of the rows by split, in their order; ``train`` has the rest.

    Raises:
        DataError: There are too few rows.
    """
    numbers: Sequence[int] = range(len(train.rows))
    if options.max_rows is not None:
        numbers = random.Random(options.split_seed).sample(numbers, min(options.max_rows, len(numbers)))
    if not missing:
        return {"train": numbers}
    draw = random.Random(options.split_seed)
    fractions = {split: float(getattr(options, f"{split}_fraction")) for split in missing}
    if options.time is not None:
        by_time = sorted(numbers, key=lambda number: (train.positions[number], number))
        cut = _cut_by_time(train, deduplicate(train.hashes, by_time), fractions)
    else:
        unique = deduplicate(train.hashes, numbers)
        if options.group is not None:
            cut = _cut_by_group(train, unique, fractions, draw)
        else:
            cut = _cut_evenly(_split_by_stratum(train, unique), fractions, draw)
    draw.shuffle(cut["train"])  # a training that stops early must not have seen one label only
    _check_not_empty(cut, train, options)
    return dict(cut)


def _cut_evenly(
    strata: Iterable[array[int]], fractions: dict[str, float], draw: random.Random
) -> dict[str, array[int]]:
    """Take each split's fraction of all strata together, as evenly over them as whole rows allow.

    The rest of rounding in one stratum is carried to the next one. A stratum keeps one row to train on.
    """
    cut = {split: array("Q") for split in ("train", *fractions)}
    seen = 0
    for stratum in strata:
        draw.shuffle(stratum)
        seen += len(stratum)
        start = 0
        for split, fraction in fractions.items():
            wanted = int(seen * fraction + 0.5) - len(cut[split])
            end = min(start + max(wanted, 0), len(stratum) - 1)
            cut[split].extend(stratum[start:end])
            start = end
        cut["train"].extend(stratum[start:])
    return cut


def _cut_by_group(
    train: ValidatedRows, unique: Iterable[int], fractions: dict[str, float], draw: random.Random
) -> dict[str, array[int]]:
    """Assign whole groups, the largest first, each to the split that has the least of its strata so far.

    The cost of a group is how much it raises the sum of ``rows² / wanted rows`` over splits and strata, which is
    least when every split has its fraction of every stratum.
    """
    groups: dict[int, array[int]] = {}
    for number in unique:
        groups.setdefault(train.positions[number], array("Q")).append(number)
    members = list(groups.values())
    draw.shuffle(members)
    members.sort(key=len, reverse=True)
    shares = {"train": 1 - sum(fractions.values()), **fractions}
    cut = {split: array("Q") for split in shares}
    counts: dict[str, Counter[int]] = {split: Counter() for split in shares}
    for rows in members:
        added = Counter(train.strata[number] for number in rows)

        def cost(split: str, added: Counter[int] = added) -> float:
            return sum(more * (2 * counts[split][name] + more) for name, more in added.items()) / shares[split]

        split = min(shares, key=cost)
        cut[split].extend(rows)
        counts[split].update(added)
    return cut


def _cut_by_time(train: ValidatedRows, unique: array[int], fractions: dict[str, float]) -> dict[str, array[int]]:
    """Give the newest rows to the last split; rows of one time stay together, so that a bound may move."""
    times = [train.positions[number] for number in unique]
    cut, end = {}, len(times)
    for split in reversed(fractions):
        wanted = len(times) - int(len(times) * sum(_up_to(fractions, split)) + 0.5)
        bound = _nearest_bound(times, wanted, end)
        cut[split] = unique[bound:end]
        end = bound
    return {"train": unique[:end], **cut}


def _nearest_bound(times: Sequence[float], wanted: int, end: int) -> int:
    """Return the index nearest to the wanted one, before ``end``, at which another time begins; else ``end``."""
    at = min(max(wanted, 1), end - 1)
    bounds = (bisect_left(times, times[at]), bisect_right(times, times[at - 1]), bisect_left(times, times[end - 1]))
    return min((bound for bound in bounds if 0 < bound < end), key=lambda bound: abs(bound - wanted), default=end)


def _up_to(fractions: dict[str, float], last: str) -> list[float]:
    """Return the fractions of a split and of those after it."""
    names = list(fractions)
    return [fractions[name] for name in names[names.index(last) :]]


def _check_not_empty(cut: dict[str, array[int]], train: ValidatedRows, options: DataOptions) -> None:
    for split, rows in cut.items():
        if not rows:
            fraction = getattr(options, f"{split}_fraction")
            scarce = _describe_scarcity(train, [number for part in cut.values() for number in part], options)
            raise DataError(
                f"{scarce} to cut a {split} split of {fraction:.0%} from: "
                f"give data.{split}, or a larger data.{split}_fraction"
            )


def _describe_scarcity(train: ValidatedRows, numbers: Sequence[int], options: DataOptions) -> str:
    """Name the thing of which there are too few: groups, times, rows of a label, or rows."""
    rows = f"{len(numbers)} different rows"
    if copies := len(train.rows) - len(numbers):
        rows += f" (and {copies} copies of them)" if options.max_rows is None else ""
    if column := options.group or options.time:
        values = len({train.positions[number] for number in numbers})
        return f"{rows} have {values} values of '{column}' in all, too few"
    if len({train.strata[number] for number in numbers}) == len(numbers) > 1:
        return f"{rows} have a label each, of which one row stays in train: too few"
    return f"{rows} are too few"


def deduplicate(hashes: array[int], numbers: Iterable[int]) -> array[int]:
    """Return the first row of each hash.

    The set of those seen is a table with open addressing (Knuth, The Art of Computer Programming 6.4): some
    16 bytes a row, where a set of Python's takes 100. Two different rows of one 64 bit hash would be taken for
    one; among ten million rows the chance that any are is 3 in a million.
    """
    mask = (1 << (3 * len(hashes) // 2).bit_length()) - 1
    table, unique = array("Q", bytes(8)) * (mask + 1), array("Q")
    for number in numbers:
        value = hashes[number]
        slot = value & mask
        while table[slot] and table[slot] != value:
            slot = (slot + 1) & mask
        if not table[slot]:
            table[slot] = value
            unique.append(number)
    return unique


def _split_by_stratum(train: ValidatedRows, numbers: Iterable[int]) -> list[array[int]]:
    """Return the row numbers of each stratum, in the order of the strata's names."""
    members = [array("Q") for _ in train.names]
    for number in numbers:
        members[train.strata[number]].append(number)
    return [members[stratum] for stratum in sorted(range(len(members)), key=train.names.__getitem__)]

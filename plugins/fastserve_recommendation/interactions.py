"""Records of interactions: a user, an item, and mostly a time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any

from fastserve_core.tasks import Column, Row, is_missing, plain_value, read_label

USER, ITEM, TIME = "user_id", "item_id", "timestamp"
ITEM_COLUMN = Column(
    ITEM, usual_names=("item", "itemid", "itemId", "movieId", "product_id", "parent_asin", "asin", "物品", "商品编号")
)
COLUMNS = (
    Column(USER, usual_names=("user", "userid", "userId", "customer_id", "session_id", "用户", "用户编号")),
    ITEM_COLUMN,
    Column(TIME, required=False, usual_names=("time", "date", "unixReviewTime", "datetime", "时间")),
)
FIELDS = (2, 3)
"""The number of fields of a line without a header: user and item, and the time."""
SEPARATOR = re.compile(r"[,\s]+")


def split_interactions(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the interaction of a record, or of a line ``user item [time]``, with its place in the record."""
    yield "", _split_line(values["text"]) if set(values) == {"text"} else values


def _split_line(line: Any) -> Mapping[str, Any]:
    fields = str(line).split()
    if len(fields) not in FIELDS:
        return {USER: None, ITEM: None}
    return dict(zip((USER, ITEM, TIME), fields, strict=False))


def read_items(value: Any) -> list[Any]:
    """Return the ids of a history: a list, a list as JSON, or ids with commas or blanks between.

    Raises:
        ValueError: The value is not a list of ids; the message completes "'items' …".
    """
    import json

    value = plain_value(value)
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = json.loads(text)
            except ValueError:
                raise ValueError(f"is not a valid JSON list: {text[:40]}") from None
        else:
            value = [part for part in SEPARATOR.split(text) if part]
    if not isinstance(value, list):
        raise ValueError("is missing" if value is None else f"is {type(value).__name__}, not a list of ids")
    return value


def normalize_history(value: Any) -> list[str]:
    """Return the ids of a history as texts; 1, 1.0 and "1" are one id.

    Raises:
        ValueError: An element is not an id; the message completes "'items' …".
    """
    items = []
    for number, item in enumerate(read_items(value), 1):
        try:
            items.append(read_label(item))
        except ValueError as error:
            raise ValueError(f"has an element at place {number} that {error}") from error
    return items


def normalize_interaction(row: Row) -> str | None:
    """Bring an interaction into its normal form: ids as texts, the time as a number; return why it cannot be used."""
    for name in (USER, ITEM):
        try:
            row[name] = read_label(row.get(name))
        except ValueError as error:
            return f"'{name}' {error}"
    try:
        row[TIME] = read_time(row.get(TIME))
    except ValueError as error:
        return f"'{TIME}' {error}"
    return None


def read_time(value: Any) -> float | None:
    """Return a time as a number, seconds since 1970 if it is a date; ``None`` if it is missing.

    Raises:
        ValueError: It is not a time; the message completes "'timestamp' …".
    """
    value = None if is_missing(value) else value
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = datetime.fromisoformat(value.strip())
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if not isinstance(value, bool) and math.isfinite(number := float(value)):
            return number
    except (ValueError, TypeError, OverflowError):
        pass
    raise ValueError(f"is {value!r}, not a time: write it as 2026-03-01T12:00:00 or as a number")


def holds_ids(values: Sequence[Any]) -> bool:
    """Return whether values repeat as the ids of users or items do."""
    return len(values) > len({str(value) for value in values})

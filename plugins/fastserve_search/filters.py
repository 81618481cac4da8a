"""Filters by the fields of documents: a value, a list of values, or a range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastserve_core.errors import DataError, did_you_mean

Where = Mapping[str, Any]
"""Conditions by field, all of which hold: a value, a list of values, or ``{"min": …, "max": …}``, both inclusive."""
BOUNDS = {"min": ">=", "max": "<="}
PLAIN = (str, int, float)


def field_value(value: Any) -> str | int | float | None:
    """Return a value of a document's field as it is stored; ``None`` for one that cannot be a condition."""
    return value if isinstance(value, PLAIN) else None


def compile_filter(where: Where, known: Sequence[str]) -> tuple[str, list[Any]]:
    """Return the SQL query of the documents' numbers, and its parameters.

    Args:
        where: The conditions.
        known: The names of the fields that documents have.

    Raises:
        DataError: A field is unknown, or a condition has another form.
    """
    queries, parameters = list[str](), list[Any]()
    for name, condition in where.items():
        if name not in known:
            raise DataError(f"filter: no document has a field '{name}'{did_you_mean(name, known)}")
        clause, values = _compile_condition(name, condition)
        queries.append(f"SELECT document FROM fields WHERE name = ? AND {clause}")
        parameters += [name, *values]
    return " INTERSECT ".join(queries), parameters


def _compile_condition(name: str, condition: Any) -> tuple[str, list[Any]]:
    if isinstance(condition, PLAIN):
        return "value = ?", [condition]
    if isinstance(condition, Mapping) and condition and condition.keys() <= BOUNDS.keys():
        bounds = list(condition.values())
        is_number = [isinstance(bound, (int, float)) and not isinstance(bound, bool) for bound in bounds]
        if all(is_number) or all(isinstance(bound, str) for bound in bounds):
            kinds = "('integer', 'real')" if all(is_number) else "('text')"
            clauses = [f"value {BOUNDS[bound]} ?" for bound in condition]
            return " AND ".join([*clauses, f"typeof(value) IN {kinds}"]), bounds
    if isinstance(condition, Sequence) and condition and all(isinstance(value, PLAIN) for value in condition):
        return f"value IN ({', '.join('?' * len(condition))})", list(condition)
    raise DataError(
        f"filter.{name} must be a value, a list of values, or an object with 'min' or 'max', not {condition}"
    )

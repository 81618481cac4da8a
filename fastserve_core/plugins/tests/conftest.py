"""The inputs of a run for plugins that misbehave."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastserve_core.plugins import verbs as verbs_module
from fastserve_core.plugins.tests.strange_plugins import Case
from fastserve_core.processes.journal import VerbJournal


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> VerbJournal:
    """A journal as a command's process has."""
    journal = VerbJournal()
    journal.open()
    monkeypatch.setattr(verbs_module, "JOURNAL", journal)
    monkeypatch.setattr("fastserve_core.plugins.leftovers.GRACE_SECONDS", 0.2)
    return journal

"""A task owns what depends on it: no product file outside the tasks' packages names a task or a head class."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parent.parent
PRODUCT = ("fastserve.py", "fastserve_core", "plugins", "conf")
SUFFIXES = {".py", ".pyi", ".j2", ".html", ".yaml", ".css"}
TASK_PACKAGES = (
    "plugins/fastserve_text",
    "plugins/fastserve_recommendation",
    "plugins/fastserve_search",
    "conf/task",
    "conf/experiment",
)
WORDS = {"embedding", "search"}
"""Names of tasks that are plain words too: they count in quotes, or after ``task=``."""
HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForCausalLM", "ForMaskedLM",
         "ForPreTraining", "ForMultipleChoice", "LMHeadModel")  # fmt: skip
EXCEPTIONS = {
    "conf/config.yaml": "the default of the group `task`",
}
EXPERIMENTS = ROOT / "conf" / "experiment"
"""An experiment chooses a task."""


def product_files() -> list[Path]:
    """Every file that users get, outside the tasks' packages and without tests."""
    roots = [ROOT / name for name in PRODUCT]
    files = [file for root in roots for file in ([root] if root.is_file() else root.rglob("*"))]
    return [
        file
        for file in files
        if file.suffix in SUFFIXES
        and "tests" not in file.parts
        and not any(file.is_relative_to(ROOT / package) for package in TASK_PACKAGES)
        and not file.is_relative_to(EXPERIMENTS)
    ]


def test_no_file_outside_the_tasks_packages_names_a_task_or_a_head() -> None:
    own = [entry for entry in entry_points(group="fastserve.tasks") if entry.value.startswith("fastserve_")]
    packages = tuple(f"{Path(package).name}." for package in TASK_PACKAGES)
    names = {entry.name for entry in own if entry.value.startswith(packages)}
    assert len(names) >= 4 and names >= WORDS
    tasks, words = "|".join(sorted(names - WORDS)), "|".join(sorted(WORDS))
    pattern = re.compile(rf"\b({tasks})\b|[\"'](?:{words})[\"']|\btask=(?:{words})\b|({'|'.join(HEADS)})")
    found = {
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in product_files()
        if str(file.relative_to(ROOT)) not in EXCEPTIONS
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    }
    assert not found, "\n".join(sorted(found))


def test_each_exception_is_one() -> None:
    assert all((ROOT / path).is_file() for path in EXCEPTIONS)


def test_the_packages_that_are_searched_have_files() -> None:
    searched = {file.relative_to(ROOT).parts[0] for file in product_files()}
    assert searched == set(PRODUCT)

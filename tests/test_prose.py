"""Documentation, docstrings and messages are plain technical English: habits that they once had are counted.

The limits are the highest rates that were counted in the documentation of eleven Python projects (pluggy, kedro,
starlette, litestar, optuna, skorch, fairseq2, torchtitan, LitServe, accelerate, llm), per 10,000 words.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").glob("*.md") if not page.name.endswith(".zh.md")),
]
MODULES = [
    path
    for folder in ("fastserve_core", "plugins")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "tests" not in path.parts
]
SOURCES = {"pages": PAGES, "modules": MODULES}
MIN_WORDS = 4
"""A string of fewer words in a module is a name or a part of one, not a message."""
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
QUOTED = re.compile(r"^\| room \| contents \|\n(?:\|.*\n)+", re.MULTILINE)
"""The docstrings of the core's rooms, which ``tests/test_pictures.py`` compares with the code."""
CODE = re.compile(r"`[^`]*`")
TARGET = re.compile(r"\]\([^)]*\)")
WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
PLACES = "folder|directory|machine|place|page|disk|port|host|node|line|position|point|layer|cell|column|file|section"


@dataclass(frozen=True)
class Habit:
    """A way to write that the field does not use; ``limit`` is per 10,000 words, ``allowed`` is not counted."""

    name: str
    pattern: str
    instead: str
    limit: float
    allowed: str = r"(?!)"


HABITS = [
    Habit(
        "a clause with 'what' as a noun",
        r"\bwhat\b(?![^.?!|]*\?)",
        "the noun: the result, the input, the option",
        1.8,
        allowed=r"\bwhat\s+to\b",
    ),
    Habit(
        "'where' for 'if'",
        r"\bwhere\b(?![^.?!|]*\?)",
        "if, when",
        5.7,
        allowed=rf"\b(?:{PLACES})s?\s+where\b|\bwhere\s+to\b",
    ),
    Habit(
        "a program that says",
        r"\b(?:says?|said|saying|tells?|told|speaks?|spoken)\b",
        "reports, logs, raises, prints, names",
        2.2,
    ),
    Habit("'goes on'", r"\b(?:go|goes|going|gone|went)\s+on\b", "continues, resumes", 1.1),
    Habit("'anew'", r"\banew\b", "again", 0.5),
    Habit("'comes to'", r"\b(?:come|comes|came|coming)\s+to\b", "is, results in", 0.5),
    Habit(
        "'is no X'",
        r"\b(?:is|are|was|were)\s+no\s+(?!longer\b|more\b|less\b|slower\b|faster\b|larger\b|smaller\b)",
        "is not a valid X",
        0.5,
        allowed=r"\bthere\s+(?:is|are|was|were)\s+no\b",
    ),
    Habit(
        "'for' for 'because'",
        r"[,;]\s+for\s+(?:it|they|there|these|those|that|this|nothing|nobody|no|the\s+[\w-]+(?:\s+[\w-]+)?"
        r"\s+(?:is|are|has|have|was))\b",
        "because",
        0.5,
    ),
    Habit(
        "an inversion with 'Of'",
        r"(?:[.:;|]\s|\n\n)(?-i:Of)\s+(?!course\b)",
        "the subject first",
        1.0,
        allowed=r":\s+Of\s+shape\b",
    ),
]


def blank(match: re.Match[str]) -> str:
    """The line ends alone, so that the lines after it keep their numbers."""
    return "\n" * match.group().count("\n")


@cache
def prose(path: Path) -> str:
    """A page without its blocks, or the docstrings and messages of a module; the lines keep their numbers."""
    return module_prose(path) if path.suffix == ".py" else page_prose(path)


def page_prose(page: Path) -> str:
    """A page without its blocks, comments, quotes of code and targets of links."""
    text = page.read_text(encoding="utf-8")
    for pattern in (BLOCK, COMMENT, QUOTED):
        text = pattern.sub(blank, text)
    return TARGET.sub(lambda match: "]" + blank(match), CODE.sub(lambda match: "code" + blank(match), text))


def module_prose(path: Path) -> str:
    """The docstrings and the messages of a module, each from its first line on."""
    source = path.read_text(encoding="utf-8")
    lines = [""] * (source.count("\n") + 2)
    nodes = list(ast.walk(ast.parse(source)))
    parts = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node) if part is not node}
    documented = {node.value for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        text = text_of(node)
        if text is None or node in parts:
            continue
        if node in documented or len(WORD.findall(text)) >= MIN_WORDS:
            for number, line in enumerate(CODE.sub("code", text.replace("``", "`")).splitlines(), node.lineno):  # type: ignore[attr-defined]
                lines[min(number, len(lines) - 1)] += f"{line} "
    return "\n".join(lines[1:])


def text_of(node: ast.AST) -> str | None:
    """The text of a string in code, with ``code`` for its expressions."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "code" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def finds(habit: Habit, page: Path) -> list[str]:
    """Each match of the habit as ``FILE:LINE: phrase``; a phrase may run over the end of a line."""
    text = re.sub(habit.allowed, blank, prose(page), flags=re.IGNORECASE)
    found = []
    for match in re.finditer(habit.pattern, text, re.IGNORECASE):
        line = text.count("\n", 0, match.start()) + 1
        phrase = " ".join(text[max(0, match.start() - 30) : match.end() + 30].split())
        found.append(f"{page.relative_to(ROOT).as_posix()}:{line}: … {phrase} …")
    return found


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.name.replace(" ", "-").replace("'", ""))
def test_a_habit_is_rare(habit: Habit, source: str) -> None:
    words = sum(len(WORD.findall(prose(page))) for page in SOURCES[source])
    found = [line for page in SOURCES[source] for line in finds(habit, page)]
    rate = 10_000 * len(found) / words
    assert rate <= habit.limit, (
        f"{habit.name}: {rate:.1f} per 10,000 words, at most {habit.limit}; write: {habit.instead}\n" + "\n".join(found)
    )


def test_docstrings_and_messages_of_modules_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""What it is."""\n\nLIMIT = 3\n"""What is\nallowed."""\nname = "what is"\n\n\n'
        "def check(value):\n"
        '    """Say what ``what`` holds."""\n'
        "    raise ValueError(\n"
        "        f'{value} is what nobody '\n"
        "        'wants to see'\n"
        "    )\n"
    )
    lines = dict(enumerate(module_prose(path).splitlines(), 1))
    assert {number: line.strip() for number, line in lines.items() if line} == {
        1: "What it is.",
        4: "What is",
        5: "allowed.",
        10: "Say what code holds.",
        12: "code is what nobody wants to see",
    }


def test_each_habit_is_found() -> None:
    """The patterns match the sentences that they are for, and not their better forms."""
    cases = {
        "a clause with 'what' as a noun": ("It prints what it found.", "It prints what to do. What is next?"),
        "'where' for 'if'": ("Where it is given, it counts.", "the folder where you started; where to look"),
        "a program that says": ("The server says so.", "The server reports it."),
        "'goes on'": ("the run goes on", "the run continues"),
        "'anew'": ("judged anew", "judged again"),
        "'comes to'": ("what it comes to", "results"),
        "'is no X'": ("A checkpoint is no artifact.", "There is no artifact; it is no longer one."),
        "'for' for 'because'": ("refused, for it is a pickle", "refused, for example"),
        "an inversion with 'Of'": ("It ends. Of trials, none is kept.", "the best of these"),
    }
    for habit in HABITS:
        bad, good = (re.sub(habit.allowed, "", text, flags=re.IGNORECASE) for text in cases[habit.name])
        assert re.search(habit.pattern, bad, re.IGNORECASE), habit.name
        assert not re.search(habit.pattern, good, re.IGNORECASE), habit.name

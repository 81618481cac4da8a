"""The documentation is true: its blocks run, its links lead somewhere, its reference is that of the code.

A comment on the line above a block says how it is treated: ``not run: REASON``, ``slow: REASON``, ``file: PATH``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import forks
from conftest import write_reviews

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CHINESE = sorted([ROOT / "README.zh.md", *DOCS.glob("*.zh.md")])
ENGLISH = sorted({ROOT / "README.md", *DOCS.glob("*.md")} - {*CHINESE})
EVERY = sorted({*ROOT.glob("*.md"), *DOCS.rglob("*.md")})
BLOCK = re.compile(r"(?:^<!-- ([a-z -]+?)(?:: (.+?))? -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNABLE = ("python", "bash", "console")
SHRUNK = (
    "+experiment=movie_reviews data.max_rows=150 task.max_length=32 train.torch_ddp.epochs=1 "
    "tune.nevergrad.trials=2 tune.nevergrad.trial_steps=3 compress.neural_compressor.method=static"
)
"""The demo, small enough for a test."""
SECONDS = 0.3
"""About how long a command of a page takes."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``mark`` and ``reason`` are from the comment above it."""

    mark: str
    reason: str
    kind: str
    text: str

    def is_run(self, slow: bool) -> bool:
        return self.mark == "file" or (
            self.kind in RUNNABLE and self.mark != "not run" and (slow or self.mark != "slow")
        )


def blocks(page: Path) -> list[Block]:
    return [Block(*match.groups("")) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# -- the blocks --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> dict[str, str]:
    """An environment that has ours beneath it, so that what a page installs is gone with it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    packages.joinpath("beneath.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    python = folder / "bin" / "python"
    forked = shlex.join(forks.client_command(str(packages), str(python)))
    commands = folder / "commands"
    commands.mkdir()
    for command, program in (
        ("fastserve", f"{forked} -m fastserve_core"),
        ("python", forked),
        ("pytest", f"{forked} -m pytest"),
        ("pip", f'"{python}" -m pip'),
    ):
        script = commands / command
        script.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        script.chmod(0o755)
    path = os.pathsep.join([str(commands), str(python.parent), os.environ["PATH"]])
    return {"PATH": path, "FASTSERVE_HOME": str(shared_home), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture
def folder(tmp_path: Path, tiny_bert: Path) -> Path:
    """Where a page's blocks run: with the file and the checkpoint that the pages speak of."""
    write_reviews(tmp_path / "reviews.csv", 120)
    shutil.copytree(tiny_bert, tmp_path / "my-checkpoint")
    shutil.copytree(DOCS / "examples", tmp_path / "docs" / "examples")
    return tmp_path


Start = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def start(folder: Path, environment: dict[str, str]) -> Start:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        """In a session of its own, which is ended with the command: a server may be left by a block that failed."""
        settings: dict[str, Any] = {"cwd": folder, "env": os.environ | environment, "start_new_session": True}
        with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
            process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT, **settings)
            try:
                code = process.wait(timeout=1200)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            printed.seek(0)
            return subprocess.CompletedProcess(command, code, printed.read())

    return run


def on_torch(text: str) -> str:
    """The same commands, each on the one engine that needs no lowering: seconds a model."""
    if "engine=" in text:
        return text
    text = re.sub(r"(fastserve(?:_core)? (?:-m )?\S*\+(?:plugin|experiment)=\S+)", r"\1 engine=torch", text)
    return text.replace("FastServe({", 'FastServe({"engine": "torch", ')


def with_one_variant(text: str) -> str:
    """The same commands with one 8-bit variant of an encoder on every processor: README's are with all of them."""
    if "task=causal_lm" in text:
        return text
    return re.sub(r"(\+plugin=\S*neural_compressor\S*)", r"\1 compress.neural_compressor.method=static", text)


def on_small_model(text: str) -> str:
    """The same commands with the small checkpoint for the default model, which the first run trains."""
    text = re.sub(r"(\+plugin=\S+)(?![^\n]* model=)", r"\1 model=./my-checkpoint", text)
    return text.replace('"model": "minilm"', '"model": "./my-checkpoint"')


def run_page(page: Path, folder: Path, start: Start, slow: bool) -> None:
    """All blocks in their order; the first that fails fails the test."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    is_first = page.name == "README.md"
    for block in blocks(page):
        if not block.is_run(slow):
            continue
        text = block.text.replace("8888", port).replace("+experiment=movie_reviews", SHRUNK)
        if block.mark == "slow" and not is_first:  # README's first run is on all engines, as a reader's is
            text = with_one_variant(on_torch(text))
        if block.mark == "slow" and page.name in ("README.md", "configuration.md"):  # first-run.md's is the real model
            text = on_small_model(text)
        is_first &= block.mark != "slow"
        text = text.replace('fastserve serve "$run"', f'fastserve serve "$run" port={port}')
        if block.mark == "file":
            (folder / block.reason).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.reason).write_text(text, encoding="utf-8")
        elif block.kind == "console":
            run_console(text, start)
        else:
            command = ("python", "-c", text) if block.kind == "python" else ("bash", "-euc", text + "\nwait\n")
            done = start(*command)
            assert done.returncode == 0, f"{text}\n---\n{done.stdout}"
            assert "Traceback" not in done.stdout, f"{text}\n---\n{done.stdout}"


def run_console(text: str, start: Start) -> None:
    """Each ``$ command``, and that it prints the lines below it; ``…`` stands for anything."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        printed = start("bash", "-c", command).stdout
        for line in expected.splitlines():
            pattern = ".*".join(map(re.escape, line.split("…")))
            assert re.search(f"^{pattern}$", printed, re.MULTILINE), f"$ {command}\n{printed}\n--- lacks\n{line}"


def commands(found: list[Block]) -> int:
    """How many commands the quick blocks run, as far as one can see."""
    return sum(max(1, one.text.count("$ ")) for one in found if one.is_run(slow=False))


def pages_with(mark: str) -> list[object]:
    """The pages with blocks of that mark, as parameters of a test."""
    pages = []
    for page in ENGLISH:
        found = [one for one in blocks(page) if one.is_run(slow=True) and one.kind in RUNNABLE]
        if any((one.mark == "slow") == (mark == "slow") and one.mark != "file" for one in found):
            fetches = any("fetches" in one.reason or "installs" in one.reason for one in found)
            marks = [pytest.mark.network, pytest.mark.slow(60)] if mark == "slow" and fetches else []
            marks += [pytest.mark.seconds(SECONDS * commands(found))] if mark == "" else []
            pages.append(pytest.param(page, id=name_of(page), marks=marks))
    return pages


@pytest.mark.parametrize("page", pages_with(""))
def test_the_quick_blocks_of_a_page_run(page: Path, folder: Path, start: Start) -> None:
    run_page(page, folder, start, slow=False)


@pytest.mark.slow(20)
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", pages_with("slow"))
def test_every_block_of_a_page_runs(page: Path, folder: Path, start: Start, online: None) -> None:
    run_page(page, folder, start, slow=True)


def test_marks_are_known_and_say_why() -> None:
    for page in EVERY:
        for block in blocks(page):
            assert block.mark in ("", "not run", "slow", "file", "demo-screen"), f"{name_of(page)}: {block.mark}"
            assert block.mark in ("", "demo-screen") or block.reason, f"{name_of(page)}: {block.mark} without a reason"


# -- the pages ---------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", EVERY, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(r"`[^`]*`", "", prose(page))):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: {link}"


def test_every_page_is_found_from_the_index() -> None:
    seen, left = set[Path](), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = (link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", prose(page)))
        left += [(page.parent / link).resolve() for link in links if link and "://" not in link]
    assert not [name_of(page) for page in EVERY if page not in seen]


@pytest.mark.parametrize("page", CHINESE, ids=name_of)
def test_a_chinese_page_keeps_up_with_the_english_one(page: Path) -> None:
    english = page.with_name(page.name.replace(".zh.", "."))
    levels = [re.findall(r"^(#+) ", prose(one), re.MULTILINE) for one in (page, english)]
    assert levels[0] == levels[1]
    assert blocks(page) == blocks(english)


@pytest.mark.parametrize("page", EVERY, ids=name_of)
def test_a_page_names_no_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for one in ("/work/", "/tmp/", "/root/", "/home/", "pypi" + ".org"):
        assert one not in text


def test_pictures_are_readable() -> None:
    pictures = list(DOCS.rglob("*.svg"))
    assert pictures
    for picture in pictures:
        root = ElementTree.parse(picture).getroot()
        assert "prefers-color-scheme: dark" in picture.read_text(encoding="utf-8")
        assert root.find("{http://www.w3.org/2000/svg}title") is not None


# -- the reference -----------------------------------------------------------------------------------


def test_the_reference_is_that_of_the_code() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_option_is_in_the_reference() -> None:
    from fastserve_core.entry_points import installed_plugins

    text = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### `\w+\.(\w+)`\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL))
    for name, entry in installed_plugins().items():
        if entry.distribution == "fastserve-core":
            for option in asdict(entry.entry_point.load().Options()):
                assert f"| `{option}` |" in sections[name], f"{name}.{option}"


def test_every_environment_variable_is_documented() -> None:
    paths = [path for folder in ("fastserve_core", "plugins") for path in (ROOT / folder).rglob("*.py")]
    texts = [path.read_text(encoding="utf-8") for path in paths if "tests" not in path.parts]
    found = {name for text in texts for name in re.findall(r"\bFASTSERVE_[A-Z_]+[A-Z]\b", text)}
    assert "FASTSERVE_HOME" in found
    for page in ("configuration.md", "reference/commands.md"):
        missing = [name for name in sorted(found) if name not in (DOCS / page).read_text(encoding="utf-8")]
        assert not missing, f"{page} does not tell of {missing}"


def test_every_exit_code_is_documented() -> None:
    from fastserve_core.cli import INTERRUPTED_EXIT_CODE
    from fastserve_core.errors import FastServeError, UserError

    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    for code in (0, FastServeError.exit_code, UserError.exit_code, INTERRUPTED_EXIT_CODE):
        assert f"| {code} |" in text

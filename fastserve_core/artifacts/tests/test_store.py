"""The store publishes whole results or nothing, for any number of processes."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastserve_core.artifacts.store import Store, default_home, result_id
from fastserve_core.errors import StoreError


def test_a_result_is_seen_only_after_it_is_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.claim("train-x-1") as claim:
        (claim.partial / "weights").write_text("w")
        assert store.find("train-x-1") is None
        claim.publish()
    found = store.find("train-x-1")
    assert found is not None
    assert (found / "weights").read_text() == "w"
    assert not claim.partial.exists()


def test_only_the_named_folder_becomes_the_result(tmp_path: Path) -> None:
    with Store(tmp_path).claim("a") as claim:
        (claim.partial / "work" / "draft").mkdir(parents=True)
        (claim.partial / "work" / "draft" / "model").touch()
        (claim.partial / "work" / "checkpoint").touch()
        claim.publish(claim.partial / "work" / "draft")
    assert [path.name for path in claim.final.iterdir()] == ["model"]


def test_what_a_failure_leaves_is_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.claim("a") as claim:
        (claim.partial / "checkpoint").write_text("half")
        raise RuntimeError
    with store.claim("a") as claim:
        assert not claim.is_published
        assert (claim.partial / "checkpoint").read_text() == "half"


def _make(home: str, log: str) -> None:
    with Store(Path(home)).claim("slow") as claim:
        if not claim.is_published:
            with Path(log).open("a") as file:
                file.write("made\n")
            time.sleep(0.5)
            (claim.partial / "x").touch()
            claim.publish()


def test_of_two_processes_one_works_and_the_other_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    workers = [context.Process(target=_make, args=(str(tmp_path / "home"), str(log))) for _ in range(3)]
    for one in workers:
        one.start()
    for one in workers:
        one.join(30)
    assert [one.exitcode for one in workers] == [0, 0, 0]
    assert log.read_text() == "made\n"


def test_threads_of_one_process_wait_for_each_other_too(tmp_path: Path) -> None:
    made: list[int] = []

    def make(number: int) -> None:
        with Store(tmp_path / "home").claim("a") as claim:
            if not claim.is_published:
                made.append(number)
                (claim.partial / "x").touch()
                claim.publish()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(200)))
    assert len(made) == 1
    assert not any((tmp_path / "home" / "partial").iterdir())


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from fastserve_core.artifacts.store import Store\n"
        f"with Store(Path({str(tmp_path)!r})).claim('a') as claim: print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    told: list[str] = []
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    with Store(tmp_path).claim("a", told.append) as claim:
        assert not claim.is_published
    assert told == []
    owner.stdout.close()


def test_a_full_disk_publishes_nothing(tmp_path: Path) -> None:
    """The limit on a file's size stands for the full disk: the write fails in the kernel, as there."""
    code = f"""
import resource, signal, sys
from pathlib import Path
from fastserve_core.artifacts.artifact import Manifest, write_manifest
from fastserve_core.errors import StoreError
from fastserve_core.artifacts.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with Store(Path({str(tmp_path)!r})).claim("a") as claim:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        write_manifest(claim.partial, Manifest("t", {{}}, (), {{}}, (), {{"x" * 100: "y"}}))
        claim.publish()
except StoreError as error:
    sys.stderr.write(str(error)[:400]); sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "could not write fastserve.json" in done.stderr
    assert not (tmp_path / "store" / "a").exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(StoreError, match="could not write the store to .*file"), Store(blocker / "home").claim("a"):
        pass


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "home")
    store.check_space(1)
    with pytest.raises(StoreError, match="set FASTSERVE_HOME to another disk"):
        store.check_space(10**18)


def test_home_comes_from_the_environment_or_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSERVE_HOME", "/some/where")
    assert default_home() == Path("/some/where")
    monkeypatch.delenv("FASTSERVE_HOME")
    assert default_home() == Path.cwd() / ".fastserve"
    assert result_id("train", "x", "k" * 64) == "train-x-" + "k" * 16

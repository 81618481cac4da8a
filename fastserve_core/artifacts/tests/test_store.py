"""The store publishes whole results or nothing, for any number of processes."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastserve_core.artifacts.files import copy_tree
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


def test_the_rest_of_a_failure_is_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.claim("a") as claim:
        (claim.partial / "checkpoint").write_text("half")
        raise RuntimeError
    with store.claim("a") as claim:
        assert not claim.is_published
        assert (claim.partial / "checkpoint").read_text() == "half"


def publish(home: Path, name: str = "a", warn: Callable[[str], None] = print) -> Path:
    """Make a result of two files, unless it is there."""
    with Store(home).claim(name, warn) as claim:
        if not claim.is_published:
            (claim.partial / "deep").mkdir()
            for path in ("numbers", "deep/texts"):
                (claim.partial / path).write_bytes(bytes(range(200)))
            claim.publish()
    return claim.final


def flip_bit(path: Path) -> None:
    """Change one bit of a file, and neither its size nor its times."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda folder, _: flip_bit(folder / "numbers"), "numbers changed since it was published"),
        (lambda folder, _: flip_bit(folder / "deep" / "texts"), "deep/texts changed"),
        (lambda folder, _: (folder / "numbers").write_bytes(b""), "numbers changed"),
        (lambda folder, _: (folder / "numbers").unlink(), "numbers missing"),
        (lambda _, record: record.unlink(), "its checksums are missing"),
        (lambda _, record: flip_bit(record), ""),
        (lambda _, record: record.write_text("[1]"), "it cannot be read"),
    ],
)
def test_a_damaged_result_is_moved_away_and_made_again(
    tmp_path: Path, damage: Callable[[Path, Path], object], fault: str
) -> None:
    folder, warnings = publish(tmp_path), list[str]()
    whole = (folder / "numbers").read_bytes()
    assert publish(tmp_path, warn=warnings.append) == folder
    assert warnings == []
    damage(folder, tmp_path / "checksums" / "a.json")
    assert Store(tmp_path).find("a") is None
    assert publish(tmp_path, warn=warnings.append) == Store(tmp_path).find("a") == folder
    (warning,) = warnings
    assert f"{folder} is damaged: {fault}" in warning
    (kept,) = (tmp_path / "damaged").glob("a-*/a")
    assert str(kept) in warning
    assert (folder / "numbers").read_bytes() == whole


def test_a_read_only_store_provides_its_results(tmp_path: Path) -> None:
    folder = publish(tmp_path)
    for name in ("locks", "partial"):
        shutil.rmtree(tmp_path / name)
        (tmp_path / name).touch()  # nothing can be created below a file, by root neither
    assert publish(tmp_path) == folder
    with pytest.raises(StoreError, match="could not write the store"):
        publish(tmp_path, "b")


def test_the_rest_of_a_kill_after_the_publication_is_removed(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "partial" / "a" / "work").mkdir(parents=True)
    publish(tmp_path)
    assert not (tmp_path / "partial" / "a").exists()


@pytest.mark.parametrize(
    ("umask", "modes"), [(0o022, (0o755, 0o644)), (0o027, (0o750, 0o640)), (0o077, (0o700, 0o600))]
)
def test_results_have_the_permissions_of_the_umask(tmp_path: Path, umask: int, modes: tuple[int, int]) -> None:
    before = os.umask(umask)
    try:
        with Store(tmp_path).claim("a") as claim:
            folder = claim.partial / "draft"
            folder.mkdir(mode=0o700)
            (folder / "weights").touch(mode=0o600)
            (folder / "program").touch(mode=0o700)
            claim.publish(folder)
        copy_tree(claim.final, tmp_path / "copy")
    finally:
        os.umask(before)
    for published in (claim.final, tmp_path / "copy"):
        paths = (published, published / "weights", published / "program")
        assert tuple(path.stat().st_mode & 0o777 for path in paths) == (*modes, modes[1] | 0o100)


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


def test_a_home_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(StoreError, match="could not write the store to .*file"), Store(blocker / "home").claim("a"):
        pass


def test_too_little_space_is_reported_before_anything_is_written(tmp_path: Path) -> None:
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

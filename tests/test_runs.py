"""Whole runs with real parts: ranks over gloo, a kill, the store, the report, and what can be done with a run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli, on_torch, ranks_below, run_here, write_reviews
from fastserve_core.pipeline.run_lock import is_in_progress

pytestmark = pytest.mark.slow

TRAIN = ["train.torch_ddp.epochs=6", "train.torch_ddp.lr=3e-3", "train.torch_ddp.batch_size=16"]
ONCE = ["train.torch_ddp.epochs=1"]
CALIBRATE = [
    "compress.neural_compressor.method=static",  # one variant on every processor; test_quantizer_runs has the choice
    "compress.neural_compressor.calibration_rows=16",
    "gate.min_speedup=0.01",
    "gate.min_size_ratio=0.01",
]


def start(folder: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fastserve_core", *on_torch(arguments)],
        cwd=folder,
        env=os.environ | {"FASTSERVE_HOME": str(folder / "home")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def here(folder: Path, *arguments: object) -> tuple[int, str, str]:
    """A run in this process, where nothing depends on its being another."""
    done = run_here(folder, *arguments, FASTSERVE_HOME=str(folder / "home"))
    return done.returncode, done.stdout, done.stderr


def records(folder: Path) -> list[dict[str, Any]]:
    """The runs' records, oldest first."""
    found = sorted(folder.glob("outputs/*/*/run.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text()) for path in found]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, reviews: Path) -> Iterator[tuple[Path, list[str]]]:
    """A folder in which tune, train and compress ran once, and the command that did it."""
    folder = tmp_path_factory.mktemp("whole-run")
    command = [
        "+plugin=[nevergrad,torch_ddp,neural_compressor]",
        f"model={tiny_bert}",
        f"data={reviews}",
        *("train.torch_ddp.epochs=6", "train.torch_ddp.batch_size=16", "tune.nevergrad.trials=2"),
        "engine=auto",
        *("tune.nevergrad.trial_steps=72", "+tune.nevergrad.space={train.torch_ddp.lr: {log: [2e-3, 5e-3]}}"),
        *CALIBRATE,
    ]
    command = [one.replace("+tune.nevergrad.space", "tune.nevergrad.space") for one in command]
    code, out, err = finish(start(folder, *command))
    assert code == 0, err + out
    yield folder, command


def test_every_stage_is_done_and_measured_alike(done: tuple[Path, list[str]]) -> None:
    record = records(done[0])[0]
    assert (record["schema"], record["status"], record["task"]) == (1, "done", "text_classification")
    assert record["data"]["rows"] == {"train": 191, "validation": 24, "test": 24}
    assert [(one["stage"], one["plugin"], one["status"]) for one in record["stages"]] == [
        ("tune", "nevergrad", "done"),
        ("train", "torch_ddp", "done"),
        ("compress", "neural_compressor", "done"),
    ]
    keys = {
        *("quality", "quality_validation", "latency_ms_p50", "latency_ms_p99"),
        *("throughput_per_s", "size_bytes", "peak_memory_bytes", "threads", "doubted_rows"),
    }
    assert set(record["stages"][2]["measures"].pop("speedup")) == {"latency", "throughput"}
    for stage in record["stages"][1:]:
        assert set(stage["measures"]) == keys
        assert stage["measures"]["quality"]["accuracy"] > 0.9
        assert stage["measures"]["latency_ms_p50"] > 0
    assert record["stages"][1]["options"]["lr"] == record["stages"][0]["found"]["train.torch_ddp.lr"]
    assert record["best"] == record["stages"][2]["artifact"]
    runtime = json.loads(Path(record["stages"][1]["artifact"], "fastserve.json").read_text())["runtime"]
    assert set(runtime["measured"]) == {"torch", "openvino", "onnxruntime"}
    assert runtime["measured"][runtime["engine"]] == record["stages"][1]["measures"]


def test_the_run_folder_has_the_documented_files(done: tuple[Path, list[str]]) -> None:
    (folder,) = {path.parent for path in sorted(done[0].glob("outputs/*/*/run.json"))[:1]}
    for name in ("report.html", "report.md", "run.json", "config.yaml", "fastserve.log"):
        assert (folder / name).stat().st_size > 0, name
    assert "StageFinished" in (folder / "fastserve.log").read_text()


def test_the_artifacts_hold_their_lineage_and_load_elsewhere(done: tuple[Path, list[str]]) -> None:
    from transformers import AutoModelForSequenceClassification

    from fastserve_core.artifacts import load_artifact

    record = records(done[0])[0]
    trained = load_artifact(Path(record["stages"][1]["artifact"]), verify=True)
    compressed = load_artifact(Path(record["best"]), verify=True)
    assert [one["stage"] for one in compressed.manifest.lineage] == ["model", "train", "compress"]
    assert compressed.manifest.lineage[2]["parent"] == trained.digest
    assert compressed.manifest.lineage[1]["data"] == record["data"]["fingerprint"]
    assert compressed.form == "engine"
    model = AutoModelForSequenceClassification.from_pretrained(trained.folder)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert not [path for path in done[0].rglob("*") if path.suffix in (".bin", ".pt") and "openvino" not in path.name]


def test_the_same_command_again_does_nothing_again(done: tuple[Path, list[str]]) -> None:
    begin = time.perf_counter()
    code, out, err = here(done[0], *done[1])
    seconds = time.perf_counter() - begin
    assert code == 0, err
    first, again = records(done[0])[0], records(done[0])[-1]
    assert [one["status"] for one in again["stages"]] == ["reused"] * 3
    assert [one["digest"] for one in again["stages"]] == [one["digest"] for one in first["stages"]]
    assert seconds < 3
    assert out.count("reused") >= 6  # in the plan, and as each is met
    assert "to train:" not in out


def test_an_option_of_the_compressor_redoes_only_the_compressor(done: tuple[Path, list[str]]) -> None:
    code, out, err = here(done[0], *done[1], "compress.neural_compressor.embeddings=fp32")
    assert code == 0, err + out
    assert [one["status"] for one in records(done[0])[-1]["stages"]] == ["reused", "reused", "done"]


def test_another_engine_measures_again_and_makes_nothing_again(done: tuple[Path, list[str]]) -> None:
    command = ["engine=torch" if one == "engine=auto" else one for one in done[1]]
    code, out, err = here(done[0], *command)
    assert code == 0, err + out
    first, again = records(done[0])[0]["stages"], records(done[0])[-1]["stages"]
    assert "to train:" not in out
    assert [one["status"] for one in again[1:]] == ["reused", "reused"]
    assert [one["digest"] for one in again] == [one["digest"] for one in first]
    assert again[1]["artifact"] != first[1]["artifact"]
    runtime = json.loads(Path(again[1]["artifact"], "fastserve.json").read_text())["runtime"]
    assert (runtime["engine"], set(runtime["measured"])) == ("torch", {"torch"})


def test_a_gate_that_is_too_tight_refuses_and_keeps_the_model(done: tuple[Path, list[str]]) -> None:
    code, out, err = here(done[0], *done[1], "gate.min_size_ratio=1000")
    assert code == 0, err + out
    record = records(done[0])[-1]
    assert record["stages"][2]["status"] == "rejected"
    assert "gate.min_size_ratio=1000" in record["stages"][2]["reason"]
    assert record["best"] == record["stages"][1]["artifact"]


def test_runs_and_diff_show_differences(done: tuple[Path, list[str]], cli: Cli) -> None:
    code, out, _ = here(done[0], "runs")
    assert code == 0
    assert re.search(r"nevergrad \(\d trials, best [0-9.]+\) > torch_ddp > neural_compressor", out)
    assert json.loads(here(done[0], "runs", "--json")[1])
    one = sorted(done[0].glob("outputs/*/*/run.json"))[0].parent
    other = done[0] / "other"
    shutil.copytree(one, other)
    changed = json.loads((other / "run.json").read_text())
    changed["stages"][1]["options"]["lr"] = 0.5
    (other / "run.json").write_text(json.dumps(changed))
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("max_quality_drop: 0.01", "max_quality_drop: 0.5"))
    code, out, _ = here(done[0], "diff", one, other)
    assert code == 0
    assert "config.gate.max_quality_drop" in out
    assert "2.train.torch_ddp.options.lr" in out
    assert "do not differ" in here(done[0], "diff", one, one)[1]
    found = json.loads(here(done[0], "diff", one, other, "--json")[1])
    assert found["2.train.torch_ddp.options.lr"][1] == 0.5


def test_predict_answers_from_a_run_and_from_an_artifact(done: tuple[Path, list[str]]) -> None:
    run = sorted(done[0].glob("outputs/*/*/run.json"))[0].parent
    code, out, err = here(done[0], "predict", run, "the film is wonderful", "a tedious piece of work")
    assert code == 0, err
    assert [line.partition("\t")[0] for line in out.splitlines()] == ["positive", "negative"]
    trained = json.loads((run / "run.json").read_text())["stages"][1]["artifact"]
    code, out, err = here(done[0], "predict", trained, "--json", "the film is wonderful")
    assert json.loads(out)["label"] == "positive"
    code, out, err = here(done[0], "predict", trained, "the film", "a wonderful film " * 100)
    assert "1 of 2 texts were truncated" in err
    assert len(out.splitlines()) == 2
    code, out, err = here(done[0], "predict", trained, "x", "--pair", "a", "--pair", "b")
    assert code == 2
    assert "give one per text" in err


def ask(url: str, *texts: str) -> list[dict[str, Any]]:
    body = json.dumps({"inputs": texts}).encode()
    request = urllib.request.Request(f"{url}/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())["predictions"]
    return found


def served_at(process: subprocess.Popen[str]) -> str:
    """The address in the line that says so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("serving "):
            return line.partition(" at ")[2].split()[0]
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_is_served_until_a_signal(done: tuple[Path, list[str]], number: signal.Signals) -> None:
    run = sorted(done[0].glob("outputs/*/*/run.json"))[0].parent
    process = start(done[0], "serve", run, "port=0")
    url = served_at(process)
    assert [one["label"] for one in ask(url, "the film is wonderful", "a tedious piece of work")] == [
        "positive",
        "negative",
    ]
    with urllib.request.urlopen(f"{url}/lineage", timeout=30) as answer:
        assert "torch_ddp" in answer.read().decode()
    below = children(process.pid)
    process.send_signal(number)
    code, _, err = finish(process)
    assert (code, err) == (0, "")
    assert gone(below)


def test_a_run_may_end_in_its_server(done: tuple[Path, list[str]]) -> None:
    command = [done[1][0].replace("]", ",server]"), *done[1][1:], "serve.server.port=0"]
    process = start(done[0], *command)
    assert ask(served_at(process), "the film is wonderful")[0]["label"] == "positive"
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert (code, err) == (0, "")
    assert records(done[0])[-1]["status"] == "done"


def test_wrong_options_of_the_server_are_reported(done: tuple[Path, list[str]]) -> None:
    run = sorted(done[0].glob("outputs/*/*/run.json"))[0].parent
    for arguments, said in (
        (["prot=1"], "no option 'prot'; did you mean 'port'"),
        (["port=x"], "serve.server.port='x'"),
        (["port"], "'port' is neither option=value"),
        (["--plugin", "torch_ddp"], "cannot fill 'serve'"),
        (["serve.server.prot=1"], "no option 'prot'; did you mean 'port'"),
        (["server.port=1"], "no option 'server.port'"),
        (["port=[1"], "port=[1 has a value that cannot be read"),
        (["port=${"], "port=${ has a value that cannot be read"),
        (["port=${oops}"], "serve.server.port: Interpolation key 'oops' not found"),
        (["port=???"], "serve.server.port is missing"),
    ):
        code, _, err = here(done[0], "serve", run, *arguments)
        assert code == 2
        assert said in err


def test_an_artifact_altered_by_a_byte_is_refused(done: tuple[Path, list[str]], reviews: Path) -> None:
    altered = done[0] / "altered"
    shutil.copytree(records(done[0])[0]["stages"][1]["artifact"], altered)
    with (altered / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    for command in (
        ["predict", altered, "a film"],
        ["serve", altered, "port=0"],
        ["export", altered, done[0] / "exported", "--to", "onnx"],
        ["+plugin=neural_compressor", f"model={altered}", f"data={reviews}"],
    ):
        code, _, err = here(done[0], *command)
        assert code == 2
        assert "model.safetensors changed since it was published" in err


def test_a_model_trained_elsewhere_is_compressed_by_itself(done: tuple[Path, list[str]], reviews: Path) -> None:
    trained = Path(records(done[0])[0]["stages"][1]["artifact"])
    plain = done[0] / "plain-checkpoint"
    shutil.copytree(trained, plain)
    (plain / "fastserve.json").unlink()
    code, out, err = here(done[0], "+plugin=neural_compressor", f"model={plain}", f"data={reviews}", *CALIBRATE)
    assert code == 0, err + out
    assert [one["stage"] for one in records(done[0])[-1]["stages"]] == ["model", "compress"]
    other = write_reviews(done[0] / "other.csv", 60)
    other.write_text(other.read_text().replace("positive", "splendid"))
    code, _, err = here(done[0], "+plugin=neural_compressor", f"model={plain}", f"data={other}")
    assert code == 2
    assert "the model has no label 'splendid'" in err


def test_an_artifact_of_other_data_is_measured_again_before_it_is_compressed(done: tuple[Path, list[str]]) -> None:
    trained = records(done[0])[0]["stages"][1]
    same = [one.replace("[nevergrad,torch_ddp,neural_compressor]", "neural_compressor") for one in done[1]]
    same = [one for one in same if one.partition("=")[0] in ("+plugin", "data", "engine") or one in CALIBRATE]
    code, out, err = here(done[0], *same, f"model={trained['artifact']}")
    assert code == 0, err + out
    lines = records(done[0])[-1]["stages"]
    assert [(one["stage"], one["status"]) for one in lines] == [("model", "reused"), ("compress", "reused")]
    assert lines[0]["measures"] == trained["measures"]
    other = write_reviews(done[0] / "others.csv", 100, seed=9)
    instead = {"data": f"data={other}", "engine": "engine=torch"}
    changed = [instead.get(one.partition("=")[0], one) for one in same]
    code, out, err = here(done[0], *changed, f"model={trained['artifact']}")
    assert code == 0, err + out
    lines = records(done[0])[-1]["stages"]
    assert [(one["stage"], one["status"]) for one in lines] == [("model", "done"), ("compress", "done")]


def test_an_engines_files_cannot_be_trained(done: tuple[Path, list[str]], reviews: Path) -> None:
    best = records(done[0])[0]["best"]
    code, _, err = here(done[0], "+plugin=torch_ddp", f"model={best}", f"data={reviews}")
    assert code == 2
    assert "cannot be trained or compressed further" in err


def test_a_headless_model_cannot_be_compressed(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_bert, bare)
    config = json.loads((bare / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (bare / "config.json").write_text(json.dumps(config))
    code, _, err = here(tmp_path, "+plugin=neural_compressor", f"model={bare}", f"data={reviews}")
    assert code == 2
    assert "is a BertModel, without a trained head" in err


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str], timeout: float = 120) -> Path:
    """The first file of that pattern, as soon as it is there."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := list(folder.glob(pattern)):
            return found[0]
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise AssertionError(f"no {pattern} in {folder}")


def children(pid: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found |= {int(path.parent.name), *children(int(path.parent.name))}
    return found


def gone(pids: set[int], timeout: float = 15) -> bool:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def long_job(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> tuple[list[str], str]:
    """A training of some seconds that checkpoints at every step, and its digest when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    data = write_reviews(folder / "reviews.csv", 400)
    command = [
        "+plugin=torch_ddp",
        f"model={tiny_bert}",
        f"data={data}",
        *("train.torch_ddp.epochs=4", "train.torch_ddp.batch_size=8", "train.torch_ddp.checkpoint_every_s=0"),
        "train.torch_ddp.nproc=2",
    ]
    code, out, err = here(folder, *command)
    assert code == 0, err + out
    return command, records(folder)[0]["stages"][0]["digest"]


def test_a_killed_run_continues_and_ends_in_the_same_artifact(tmp_path: Path, long_job: tuple[list[str], str]) -> None:
    command, digest = long_job
    process = start(tmp_path, *command)
    newest = wait_for("home/partial/train-*/work/checkpoint-0000002*", tmp_path, process)
    below = children(process.pid)
    (run,) = tmp_path.glob("outputs/*/*")
    assert is_in_progress(run)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(below) >= 3  # the launcher and two ranks
    assert gone(below), "children outlive their killed parent"
    assert not is_in_progress(run)
    assert not list(tmp_path.glob("home/store/train-*"))
    assert newest.parent.is_dir()
    code, out, err = here(tmp_path, *command)
    assert code == 0, err + out
    assert records(tmp_path)[-1]["stages"][0]["digest"] == digest


def test_a_killed_rank_is_restarted_and_the_result_is_the_same(tmp_path: Path, long_job: tuple[list[str], str]) -> None:
    command, digest = long_job
    process = start(tmp_path, *command)
    wait_for("home/partial/train-*/work/checkpoint-0000002*", tmp_path, process)
    ranks = ranks_below(process.pid, generations=5)  # the command runs in a child
    assert len(ranks) == 2
    os.kill(ranks[0], signal.SIGKILL)
    code, out, err = finish(process)
    assert code == 0, err + out
    assert records(tmp_path)[-1]["stages"][0]["digest"] == digest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_reports_it_and_keeps_its_work(
    tmp_path: Path, long_job: tuple[list[str], str], number: signal.Signals
) -> None:
    process = start(tmp_path, *long_job[0])
    kept = wait_for("home/partial/train-*/work/checkpoint-*", tmp_path, process)
    below = children(process.pid)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 130
    assert err.count("interrupted") == 1
    assert "Traceback" not in err
    assert gone(below)
    assert kept.parent.is_dir()
    assert records(tmp_path)[-1]["status"] == "interrupted"


def test_a_full_disk_fails_the_stage_and_publishes_nothing(
    tmp_path: Path, home: Path, tiny_bert: Path, reviews: Path
) -> None:
    """Files may have 60 kB: the data fits, the weights do not."""
    command = [sys.executable, "-m", "fastserve_core", "+plugin=torch_ddp", f"model={tiny_bert}", f"data={reviews}"]
    quoted = " ".join(f"'{one}'" for one in [*command, "train.torch_ddp.epochs=1", "train.torch_ddp.max_restarts=0"])
    done = subprocess.run(
        ["bash", "-c", f"trap '' XFSZ; ulimit -f 60; exec {quoted}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "train.torch_ddp" in done.stderr or "could not write" in done.stderr
    assert (home / "store").is_dir()
    assert not list((home / "store").glob("train-*"))
    assert records(tmp_path)[-1]["status"] == "failed"


def test_a_sweep_runs_each_value(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    command = ["-m", "+plugin=torch_ddp", f"model={tiny_bert}", f"data={reviews}", *ONCE]
    code, out, err = here(tmp_path, *command, "train.torch_ddp.lr=1e-5,3e-3")
    assert code == 0, err + out
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("multirun/*/*/*/run.json"))]
    assert [one["stages"][0]["options"]["lr"] for one in found] == [1e-5, 3e-3]


def test_two_processes_with_one_command_share_the_work(tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    command = ["+plugin=torch_ddp", f"model={tiny_bert}", f"data={reviews}", *ONCE]
    both = [start(tmp_path, *command, f"hydra.run.dir=outputs/today/{number}") for number in (1, 2)]
    results = [finish(process) for process in both]
    assert [code for code, _, _ in results] == [0, 0], results
    assert sorted(one["stages"][0]["status"] for one in records(tmp_path)) == ["done", "reused"]


def test_every_shape_of_task_trains_from_scratch(tmp_path: Path) -> None:
    """Token tags and a language model go the same way as classes."""
    lines = [{"tokens": ["I", "live", "in", town, "now"], "tags": ["O", "O", "O", "B-LOC", "O"]}
             for town in ("Oslo", "Rome", "Paris", "Bern") * 20]  # fmt: skip
    for number, line in enumerate(lines):
        line["tokens"] = [*line["tokens"], str(number)]
        line["tags"] = [*line["tags"], "O"]
    (tmp_path / "ner.jsonl").write_text("\n".join(map(json.dumps, lines)))
    small = ["model.dim=32", "model.num_heads=2", "model.num_layers=1", "model.hidden_size=64"]
    common = [*small, "model.vocab_size=300", *TRAIN]
    code, out, err = here(
        tmp_path, "+plugin=torch_ddp", "task=token_classification", "model=bert", "data=ner.jsonl", *common
    )
    assert code == 0, err + out
    ner = records(tmp_path)[-1]
    assert ner["stages"][0]["measures"]["quality"]["f1"] > 0.9
    answer = here(tmp_path, "predict", ner["best"], "I live in Rome now 3")[1]
    assert answer.startswith("Rome (LOC)")
    texts = [{"text": f"the {animal} sat on the {place} again"} for animal in ("cat", "dog", "fox", "owl")
             for place in ("mat", "roof", "hill", "wall", "step", "log", "bed", "box", "car", "sea")]  # fmt: skip
    (tmp_path / "lm.jsonl").write_text("\n".join(map(json.dumps, texts)))
    code, out, err = here(
        tmp_path,
        "+plugin=torch_ddp",
        "task=causal_lm",
        "model=gpt2",
        "data=lm.jsonl",
        "task.max_new_tokens=4",
        *[one.replace("epochs=6", "epochs=30") for one in common],
    )
    assert code == 0, err + out
    quality = records(tmp_path)[-1]["stages"][0]["measures"]["quality"]
    assert quality["perplexity"] < 30
    assert "latency_ms_p50" in records(tmp_path)[-1]["stages"][0]["measures"]

"""The command line without a run: screens, choices, and what is said about wrong input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli
from fastserve_core.pipeline.run_lock import LOCK_FILE, hold_run

HEAVY = {"torch", "ray", "transformers", "nevergrad", "neural_compressor", "openvino"}
pytestmark = pytest.mark.seconds(0.25)
PLUGINS = "+plugin=[nevergrad,torch_ddp,neural_compressor]"


def refused(done: subprocess.CompletedProcess[str], *said: str, code: int = 2) -> None:
    """One message, the right exit code, no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for one in said:
        assert one in done.stderr, done.stderr


def test_the_screen_without_arguments_helps(command: Cli) -> None:
    done = command()
    assert done.returncode == 0
    for wanted in ("torch_ddp", "neural_compressor", "minilm", "movie_reviews", "+experiment=movie_reviews", "doctor"):
        assert wanted in done.stdout


def test_the_version_is_our_own(command: Cli) -> None:
    assert command("--version").stdout.startswith("FastServe 0.")


def test_a_users_own_configs_can_be_chosen(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 17\n")
    cfg = composed(cli(f"--config-dir={tmp_path / 'mine'}", "+experiment=own", "--cfg", "job"))
    assert cfg.seed == 17


@pytest.mark.parametrize("mode", [[], ["hydra.mode=MULTIRUN"]])
def test_the_mode_may_be_set_as_an_option(cli: Cli, mode: list[str]) -> None:
    done = cli("+plugin=torch_ddp", "data.train=none.csv", "seed=1,2", *mode)
    assert done.returncode == 2
    assert done.stderr.count("none.csv does not exist") == 2 * len(mode)
    assert ("To use it as a list" in done.stderr) == (not mode)


def test_a_run_composes_its_config_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    compose, composed = ConfigLoaderImpl.load_configuration, list[object]()
    monkeypatch.setattr(
        ConfigLoaderImpl, "load_configuration", lambda *given, **more: composed.append(given) or compose(*given, **more)
    )
    done = cli("+plugin=torch_ddp", "data.train=none.csv")
    refused(done, "none.csv does not exist")
    assert len(composed) == 1, done.stderr


def test_help_lists_the_choices(command: Cli) -> None:
    done = command("--help")
    assert done.returncode == 0
    for wanted in ("plugin: ", "nevergrad", "model: ", "gate:", "Your own data"):
        assert wanted in done.stdout
    assert "Powered by Hydra" not in done.stdout


def composed(done: subprocess.CompletedProcess[str]) -> Any:
    from omegaconf import OmegaConf

    assert done.returncode == 0, done.stderr
    return OmegaConf.create(done.stdout)


def test_plugins_stand_in_their_stages_in_the_order_given(cli: Cli) -> None:
    cfg = composed(cli(PLUGINS, "data=movie_reviews", "--cfg", "job"))
    assert list(cfg.tune) == ["nevergrad"]
    assert list(cfg.train) == ["torch_ddp"]
    assert list(cfg.compress) == ["neural_compressor"]
    assert cfg.data.source == "demo"
    assert cfg.task.name == "text_classification"


def test_the_experiment_composes_and_can_be_overridden(command: Cli) -> None:
    cfg = composed(command("+experiment=movie_reviews", "train.torch_ddp.epochs=1", "--cfg", "job"))
    assert list(cfg.compress) == ["neural_compressor"]
    assert cfg.train.torch_ddp.epochs == 1
    assert cfg.tune.nevergrad.trials == 3


def test_paths_are_spelt_out(cli: Cli, tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    cfg = composed(cli("+plugin=torch_ddp", f"model={tiny_bert}", f"data={reviews}", "--cfg", "job"))
    assert (cfg.model.kind, cfg.model.path) == ("checkpoint", str(tiny_bert))
    assert cfg.data.train == str(reviews)
    cfg = composed(cli("+plugin=torch_ddp", "model=org/name", "--cfg", "job"))
    assert (cfg.model.kind, cfg.model.name) == ("hub", "org/name")


DDP = "+plugin=torch_ddp"
NO_EPOCH = "train.torch_ddp has no option 'epoch'; did you mean 'epochs'"


@pytest.mark.slow(1)
def test_wrong_input_is_reported_to_a_shell(command: Cli) -> None:
    """The tests below call what the command calls, in this process."""
    refused(command(DDP, "sed=1", "gate.max_quality_dorp=1"), "2 errors", "'seed'", "'max_quality_drop'")
    refused(command("predictt"), "nor a command; did you mean 'predict'")
    refused(command("runs", "--what"), "unrecognized arguments")


@pytest.mark.slow(6)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["+plugin=nevergrade"], ["no plugin named 'nevergrade'; did you mean 'nevergrad'"]),
        (["+plugin=[torch_dpp,neural_compresor]"], ["did you mean 'torch_ddp'"]),
        (["+plugin=tor", "model=minilmm", "data=movie_review"], ["3 errors", "torch_ddp", "minilm", "movie_reviews"]),
        (["+experiment=movies"], ["no experiment named 'movies'; did you mean 'movie_reviews'"]),
        (["task=classification"], ["no task named 'classification'"]),
        (["plugin=torch_ddp"], ["write +plugin=torch_ddp"]),
        (["+plugin=[]"], ["has no value"]),
        ([DDP, "train.torch_ddp.epoch=2"], [NO_EPOCH]),
        ([DDP, "+train.torch_ddp.epoch=2"], [NO_EPOCH]),
        ([DDP, "sed=1", "gate.max_quality_dorp=1"], ["2 errors", "'seed'", "'max_quality_drop'"]),
        (["train.torch_ddp.lr=1"], ["no such plugin is chosen; add +plugin=torch_ddp"]),
        ([DDP, "train.torch_ddp.epochs=two"], ["train.torch_ddp.epochs='two'"]),
        ([DDP, "train.torch_ddp.epochs=0", "seed=x"], ["2 errors", "epochs must be at least 1", "seed='x'"]),
        ([DDP, "gate.enabled=maybe"], ["gate.enabled='maybe'"]),
        (["-m", DDP, "model=./a,./b"], ["a sweep over paths is written model=checkpoint model.path=A,B"]),
        (
            ["+plugin=server", "task=token_classification", "model=REVIEWS_MODEL"],
            ["is a BertForSequenceClassification, without a trained head for token_classification"],
        ),
        ([DDP, "data.max_bad_rows=many"], ["data.max_bad_rows='many'"]),
        (["+plugin=[torch_ddp,nevergrad]", "tune.nevergrad.trials=0"], ["tune.nevergrad.trials must be at least 1"]),
        ([DDP, "+train.other={}"], ["no plugin named 'other'"]),
        (["+plugin=[server,ray_serve]"], ["stage 'serve' takes one plugin"]),
        (["+plugin=nevergrad"], ["a tuner needs a trainer"]),
        (["model=minilm"], ["no stage is chosen"]),
        (
            ["+plugin=neural_compressor", "compress.neural_compressor.method=gptq"],
            ["compress.neural_compressor.method=gptq is for language models", "static or dynamic"],
        ),
        (["+plugin=neural_compressor", "task=pretraining"], ["not those of pretraining"]),
        ([DDP], ["no training data: set data.train=FILE"]),
        ([DDP, "data.train=nowhere.csv"], ["nowhere.csv does not exist"]),
        ([DDP, "model=./nowhere", "data=REVIEWS"], ["nowhere does not exist"]),
        (["predictt"], ["nor a command; did you mean 'predict'"]),
        ([DDP, "train.torch_ddp.lr=[1,2"], ["'train.torch_ddp.lr=[1,2' cannot be read", """lr="[1,2"'"""]),
        ([DDP, "data.train=验证's (1)=&~.csv"], ["验证's (1)=&~.csv does not exist"]),
        ([DDP, "data.train=甲${乙}.csv"], [r"""write 'data.train="甲\${乙}.csv"'"""]),
        ([DDP, "data.列=1"], ["data has no option '列'"]),
    ],
)
def test_wrong_input_is_reported_in_one_message(
    cli: Cli, arguments: list[str], said: list[str], reviews: Path, tiny_bert: Path
) -> None:
    places = {"REVIEWS_MODEL": str(tiny_bert), "REVIEWS": str(reviews)}
    for name, path in places.items():
        arguments = [one.replace(name, path) for one in arguments]
    refused(cli(*arguments), *said)


def test_a_run_with_wrong_input_leaves_no_store(command: Cli, home: Path) -> None:
    refused(command("+plugin=torch_ddp", "train.torch_ddp.epochs=0"))
    assert not home.exists()


@pytest.mark.slow(1)
def test_blocked_plugins_and_missing_packages_are_reported(cli: Cli, tmp_path: Path) -> None:
    refused(cli("+plugin=torch_ddp", FASTSERVE_BLOCK_PLUGINS="torch_ddp"), "is blocked")
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'nevergrad' else find(name, *a)\n"
        f"sys.argv = ['fastserve', {PLUGINS!r}]\n"
        "from fastserve_core.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    refused(done, "plugin 'nevergrad' needs nevergrad: pip install 'fastserve-core[nevergrad]'")


@pytest.mark.slow(2)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"text,label\n", "no rows"),
        (b"txt,label\na,b\n", "no column 'text'; did you mean 'txt'"),
        (b"text,label\nfine,a\n,b\nx,a\ny,b\n", "train.csv:3: 'text' is empty"),
        (b"text,label\n" + b"x,same\n" * 20, "all 20 training rows have the label 'same'"),
        (b"text,label\ncaf\xe9,a\n", "train.csv:2: byte 4 of the line is not UTF-8"),
    ],
)
def test_data_that_cannot_be_used_is_reported(
    cli: Cli, tmp_path: Path, tiny_bert: Path, content: bytes, said: str
) -> None:
    (tmp_path / "train.csv").write_bytes(content)
    refused(cli("+plugin=torch_ddp", f"model={tiny_bert}", "data.train=train.csv"), said)


@pytest.mark.slow(1)
def test_models_that_cannot_be_used_are_reported(cli: Cli, tmp_path: Path, tiny_bert: Path, reviews: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(cli("+plugin=torch_ddp", f"model={empty}", f"data={reviews}"), "no config.json")
    (empty / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    refused(cli("+plugin=torch_ddp", f"model={empty}", f"data={reviews}"), "no weights")
    (empty / "pytorch_model.bin").touch()
    refused(cli("+plugin=torch_ddp", f"model={empty}", f"data={reviews}"), "a pickle")


@pytest.mark.slow(1)
def test_an_output_that_cannot_be_written_is_reported(
    command: Cli, tmp_path: Path, tiny_bert: Path, reviews: Path
) -> None:
    (tmp_path / "file").touch()
    arguments = ["+plugin=torch_ddp", f"model={tiny_bert}", f"data={reviews}"]
    refused(command(*arguments, "hydra.run.dir=file/run"), "cannot be written")
    refused(command(*arguments, FASTSERVE_HOME=str(tmp_path / "file" / "home")), "could not write the store", code=1)


def test_torchrun_is_refused_with_an_explanation(cli: Cli) -> None:
    refused(cli("+plugin=torch_ddp", WORLD_SIZE="2"), "torchrun would run the whole pipeline in every rank")


def test_the_debug_switch_shows_where(command: Cli) -> None:
    done = command("model=minilm", FASTSERVE_DEBUG="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("arguments", [[], [PLUGINS, "--cfg", "job"]])
def test_the_quick_screens_load_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['fastserve', *{arguments!r}]\n"
        "from fastserve_core.cli import main; main(sys.argv[1:]); print(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert not HEAVY & set(done.stdout.splitlines()[-1].split())


def test_plugins_are_listed_as_json(cli: Cli) -> None:
    found = {one["name"]: one for one in json.loads(cli("plugins", "--json").stdout)}
    assert {"torch_ddp", "nevergrad", "neural_compressor", "server", "ray_serve", "progress", "report"} <= set(found)
    assert found["torch_ddp"]["stage"] == "train"
    assert found["torch_ddp"]["state"] == "ready"
    assert "torch_ddp" in cli("plugins").stdout
    blocked = json.loads(cli("plugins", "--json", FASTSERVE_BLOCK_PLUGINS="torch_ddp").stdout)
    assert next(one for one in blocked if one["name"] == "torch_ddp")["state"].startswith("blocked")


@pytest.mark.slow(1)
def test_doctor_reports_packages_and_faults(command: Cli) -> None:
    done = command("doctor")
    for wanted in ("Python", "cores", "memory", "store", "torch", "neural-compressor"):
        assert wanted in done.stdout
    warned = command("doctor", OMP_NUM_THREADS=str(10 * (os.cpu_count() or 1)))
    assert warned.returncode == 1
    assert "! OMP_NUM_THREADS=" in warned.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict"], "the following arguments are required"),
        (["predict", "nowhere", "x"], "nowhere does not exist"),
        (["predict", ".", "x"], "is neither an artifact"),
        (["serve", "nowhere"], "nowhere does not exist"),
        (["diff", ".", "."], "is not a run"),
        (["runs", "--what"], "unrecognized arguments"),
        (["new-plugin", "x y", "--stage", "train"], "cannot be a plugin's name"),
        (["new-plugin", "torch_ddp", "--stage", "train"], "is already installed"),
        (["new-plugin", "fine", "--stage", "trane"], "invalid choice"),
    ],
)
def test_the_small_commands_refuse_wrong_input(cli: Cli, arguments: list[str], said: str) -> None:
    refused(cli(*arguments), said)


def test_no_runs_is_reported_kindly(command: Cli) -> None:
    done = command("runs")
    assert done.returncode == 0
    assert "no runs below" in done.stdout


def test_a_run_whose_process_was_killed_is_listed_as_failed(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "2026-11-28" / "12-00-00"
    folder.mkdir(parents=True)
    record = {"schema": 1, "task": "causal_lm", "status": "running", "stages": []}
    (folder / "run.json").write_text(json.dumps(record))
    with hold_run(folder):
        assert json.loads(cli("runs", "--json").stdout)[0]["status"] == "running"
        second = cli("+plugin=torch_ddp", f"hydra.run.dir={folder}", "data.train=reviews.csv")
        refused(second, f"another run is in progress in {folder}: set another hydra.run.dir")
    (folder / LOCK_FILE).touch()  # as a killed process leaves it
    (listed,) = json.loads(cli("runs", "--json").stdout)
    assert (listed["status"], listed["error"]) == ("failed", "the process was killed before the run ended")


SURFACE = Path(__file__).parent / "surface.json"


def test_the_surface_is_frozen() -> None:
    """What scripts hold on to: commands, exit codes, plugin options. A change here is a change for users."""
    from dataclasses import asdict

    from fastserve_core.cli import COMMANDS, INTERRUPTED_EXIT_CODE
    from fastserve_core.entry_points import installed_plugins
    from fastserve_core.errors import FastServeError, UserError

    own = {name: entry for name, entry in installed_plugins().items() if entry.distribution == "fastserve-core"}
    surface = {
        "commands": sorted(COMMANDS),
        "exit_codes": [0, FastServeError.exit_code, UserError.exit_code, INTERRUPTED_EXIT_CODE],
        "options": {name: sorted(asdict(entry.entry_point.load().Options())) for name, entry in sorted(own.items())},
    }
    assert surface == json.loads(SURFACE.read_text())

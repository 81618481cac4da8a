"""Random configs and damaged records: a message and exit code 2 for each, and never an unexpected error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from conftest import Cli
from fastserve_core.artifacts import MANIFEST, Manifest, find_artifact, hash_files, write_manifest
from fastserve_core.config import config_dir, parse_options
from fastserve_core.config.groups import register_plugin_configs
from fastserve_core.config.options import resolve_interpolations
from fastserve_core.errors import OptionError, UserError
from fastserve_core.pipeline.settings import read_settings

VALUES = (
    *(float("nan"), float("inf"), float("-inf"), -1, 0, 10**30, 1e-320, True, None, "", "a b", "\0", "é", "/dev/null"),
    *("${oops}", "${oc.env:HOME}", "${oc.env:NOT_SET}", "???", "2020-01-01", "..", "nan", "1e400"),
    *([], {}, [None], {"a": 1}, {1: 2}, [float("nan")], [1, [2, {"b": float("inf")}]], {"linear": [float("nan"), 1]}),
)
UNEXPECTED = "an error in FastServe or in a plugin"


def paths_of(node: Any, prefix: str = "") -> Iterator[str]:
    """The path of each section and option of a config."""
    for name, value in node.items():
        yield prefix + str(name)
        if isinstance(value, dict):
            yield from paths_of(value, f"{prefix}{name}.")


@pytest.fixture(scope="module")
def composed() -> Any:
    """The config of a run with a tuner, a trainer and a server, as plain values."""
    register_plugin_configs()
    choices = ["+plugin=[nevergrad,torch_ddp,server]", "model=checkpoint", "model.path=here"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("config", overrides=[*choices, "data.train=rows.csv"]))


@pytest.mark.slow(3)
@given(place=st.integers(0), value=st.sampled_from(VALUES))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_of_any_option_is_taken_or_refused(composed: Any, place: int, value: Any) -> None:
    paths = [path for path in paths_of(composed) if not path.startswith("hydra")]
    cfg: DictConfig = OmegaConf.create(composed)
    OmegaConf.update(cfg, paths[place % len(paths)], value, merge=False)
    try:
        read_settings(resolve_interpolations(cfg))
    except UserError as error:
        assert str(error)


@pytest.mark.slow(2)
@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("train.torch_ddp.lr=nan", "train.torch_ddp.lr must be a finite number, not nan"),
        ("train.torch_ddp.rdzv_timeout_s=inf", "train.torch_ddp.rdzv_timeout_s must be a finite number, not inf"),
        ("gate.max_quality_drop=-inf", "gate.max_quality_drop must be a finite number, not -inf"),
        ("data.test_fraction=1e999", "data.test_fraction must be a finite number, not inf"),
        ("train.torch_ddp.class_weights=[1, nan]", "train.torch_ddp.class_weights.1 must be a finite number"),
        ("train.torch_ddp='${oops}'", "train.torch_ddp=${oops}: Interpolation key 'oops' not found"),
        ("train.torch_ddp.freeze=[embeddings, [a]]", "train.torch_ddp.freeze must be a list of str, not with ['a']"),
        ("tune=3", "tune must be a mapping, not 3"),
        ("train.torch_ddp=3", "train.torch_ddp must be a mapping of options, not 3"),
    ],
)
def test_an_option_that_is_no_option_is_named(
    cli: Cli, tiny_bert: Path, reviews: Path, option: str, named: str
) -> None:
    done = cli("+plugin=torch_ddp", f"model={tiny_bert}", f"data={reviews}", option)
    assert done.returncode == 2
    assert named in done.stderr and UNEXPECTED not in done.stderr


def test_options_of_python_objects_are_refused_by_name() -> None:
    with pytest.raises(OptionError, match=r"somewhere: .*object"):
        parse_options(Manifest, {"task": object()}, "somewhere")


# -- records -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one artifact, whose records the tests below damage."""
    folder = tmp_path_factory.mktemp("cwd") / "outputs" / "2020-01-01" / "00-00-00"
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    runtime = {"engine": "torch", "form": "trainable", "staged_engine": "torch"}
    measures = {"quality": {"accuracy": 0.5}, "size_bytes": 7}
    write_manifest(
        model,
        Manifest("text_classification", {}, ("a", "b"), runtime, ({"stage": "train"},), hash_files(model), measures),
    )
    stage = {"stage": "train", "plugin": "torch_ddp", "status": "done", "artifact": str(model), "measures": measures}
    (folder / "run.json").write_text(json.dumps({"schema": 1, "status": "done", "best": str(model), "stages": [stage]}))
    (folder / "config.yaml").write_text("gate:\n  enabled: true\n")
    return folder


def replace_part(content: bytes, begin: int, length: int, by: bytes) -> bytes:
    begin %= len(content)
    return content[:begin] + by + content[begin + length :]


DAMAGE = {"begin": st.integers(0), "length": st.integers(0, 40), "by": st.binary(max_size=3)}
FUZZED = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(**DAMAGE)
@example(begin=0, length=10**9, by=b"[]")
@example(begin=0, length=10**9, by=b"[" * 100_000)
@example(begin=0, length=10**9, by=b"\xff\xfe")
@FUZZED
def test_a_damaged_manifest_is_refused_by_name(run: Path, begin: int, length: int, by: bytes) -> None:
    path = run / "model" / MANIFEST
    whole = path.read_bytes()
    digest = find_artifact(run).digest
    path.write_bytes(replace_part(whole, begin, length, by))
    try:
        assert find_artifact(run).digest == digest, "what is read is what was written"
    except UserError as error:
        assert str(run / "model") in str(error)
    finally:
        path.write_bytes(whole)


@pytest.mark.slow(1)
@given(name=st.sampled_from(["run.json", "config.yaml"]), **DAMAGE)
@example(name="run.json", begin=0, length=10**9, by=b"[]")
@example(name="run.json", begin=0, length=10**9, by=b'{"stages": [{}]}')
@example(name="config.yaml", begin=0, length=10**9, by=b"- 1")
@FUZZED
def test_a_damaged_record_of_a_run_is_refused_or_shown_as_unreadable(
    run: Path, cli: Cli, name: str, begin: int, length: int, by: bytes
) -> None:
    path = run / name
    whole = path.read_bytes()
    path.write_bytes(replace_part(whole, begin, length, by))
    try:
        listed, compared = cli("runs", run.parents[2]), cli("diff", run, run)
    finally:
        path.write_bytes(whole)
    assert listed.returncode == 0 and str(run) in listed.stdout, listed.stderr
    assert compared.returncode in (0, 2) and UNEXPECTED not in compared.stderr, compared.stderr

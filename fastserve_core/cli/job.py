"""The main job: Hydra composes the config from the command line, and the run is executed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.cli import COMMANDS, report_error
from fastserve_core.config.groups import GROUPS, check_choices, config_dir, register_plugin_configs
from fastserve_core.errors import ErrorCollector, FastServeError, InvalidOption, InvalidPlan, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: Sequence[str]) -> int:
    """Compose and run; returns the worst exit code of the jobs (a sweep has several)."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise InvalidPlan(
            "WORLD_SIZE is set: torchrun would run the whole pipeline once a rank. "
            "Start FastServe by itself: the trainer launches its ranks (train.torch_ddp.nproc)"
        )
    overrides = check_choices(list(arguments))
    return run_hydra(overrides)


def run_hydra(overrides: list[str]) -> int:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    codes = [0]

    def job(cfg: DictConfig) -> None:
        codes.append(report_error(lambda: _run(cfg)))

    # Hydra would print its own message and exit with 1; with this it raises, and we say what is wrong
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["fastserve", *overrides]
    register_plugin_configs()
    try:
        if any(one.startswith("-") for one in overrides):
            _start_with_flags(job)
        else:
            _start(job, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        _explain_override_error(overrides, error)
        raise InvalidOption(_first_lines(error)) from error
    except OSError as error:
        raise InvalidOption(f"the run's folder cannot be written: {error}") from error
    return max(codes)


def _start_with_flags(job: Callable[[DictConfig], None]) -> None:
    import hydra

    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(job)()


def _start(job: Callable[[DictConfig], None], overrides: list[str]) -> None:
    """What ``hydra.main`` does without flags, but for composing the config twice, first for its ``hydra.mode`` alone.

    A config that sets the mode to MULTIRUN cannot be composed for one run, or is refused then.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode

    with initialize_config_dir(str(config_dir()), job_name="fastserve", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            hydra.run("config", job, overrides)
        except (HydraException, AssertionError) as error:
            if str(error) and "--multirun" not in str(error):
                raise  # it does not come from the mode
            if hydra.get_mode("config", overrides) != RunMode.MULTIRUN:
                raise
            hydra.multirun("config", job, overrides)


def _run(cfg: DictConfig) -> int:
    from hydra.core.hydra_config import HydraConfig

    from fastserve_core.pipeline.execute import execute
    from fastserve_core.processes.environment import library_environment

    hydra = HydraConfig.get()
    library_environment(offline=cfg.model.kind != "hub" and cfg.data.source != "hub")
    fixed = frozenset(override.partition("=")[0].lstrip("+~") for override in hydra.overrides.task)
    execute(cfg, Path(hydra.runtime.output_dir), fixed)
    return 0


def _explain_override_error(overrides: list[str], error: Exception) -> None:
    """Raise every override that names nothing, with "did you mean", when that is what stopped Hydra."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    unreadable = getattr(error, "override", None)
    if unreadable is not None and "=" not in unreadable:
        raise InvalidOption(
            f"'{unreadable}' is no option=value, and no command either{did_you_mean(unreadable, COMMANDS)}"
        )
    if unreadable is not None:
        raise InvalidOption(f"'{unreadable}' cannot be read as option=value: {_first_lines(error, 1)}")
    plain = [one for one in overrides if not one.startswith("-")]
    chosen = [one for one in plain if one.partition("=")[0].lstrip("+") in GROUPS]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            cfg = compose("config", overrides=chosen)
    except Exception:
        return  # the choices themselves do not compose: Hydra's own message says why
    faults = ErrorCollector()
    for override in plain:
        with faults.collect():
            if override not in chosen and not override.startswith(("+", "hydra")):
                _check_path(cfg, override)
    faults.raise_if_any()


def _check_path(cfg: DictConfig, override: str) -> None:
    key = override.lstrip("~").partition("=")[0]
    node: Any = cfg
    walked: list[str] = []
    for part in key.split("."):
        if not hasattr(node, "keys"):
            raise InvalidOption(f"{'.'.join(walked)} is a value and has no '{part}'")
        if part not in node:
            where = ".".join(walked) or "the config"
            raise InvalidOption(_unknown(where, part, list(map(str, node)), walked))
        walked.append(part)
        node = node._get_node(part)
        node = node if hasattr(node, "keys") and not node._is_none() else None


def _unknown(where: str, part: str, known: list[str], walked: list[str]) -> str:
    if not known and walked[:1] and walked[0] in ("tune", "train", "compress", "serve", "observe"):
        return f"{where} has no '{part}': no such plugin is chosen; add +plugin={part}"
    return f"{where} has no option '{part}'{did_you_mean(part, known)}"


def _first_lines(error: Exception, count: int = 4) -> str:
    """Hydra's message without the part about its own debugging switch."""
    if isinstance(error, FastServeError):
        return str(error)
    lines = [line for line in str(error).splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
    return "\n".join(lines[:count])

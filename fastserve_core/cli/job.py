"""Runs: Hydra composes the config from the command line, and the run is executed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.cli import COMMANDS, report_error
from fastserve_core.config.groups import GROUPS, check_choices, config_dir, register_plugin_configs
from fastserve_core.errors import ErrorCollector, FastServeError, OptionError, PlanError, did_you_mean
from fastserve_core.plugins.hookspecs import OBSERVE, STAGES

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: Sequence[str]) -> int:
    """Compose and execute a run; return the highest exit code of its jobs (a sweep has several).

    Raises:
        PlanError: The command was started by torchrun.
        OptionError: The config cannot be composed.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise PlanError(
            "WORLD_SIZE is set: torchrun would run the whole pipeline in every rank. "
            "Start FastServe without it: the trainer launches its ranks (train.torch_ddp.nproc)"
        )
    overrides = check_choices(list(arguments))
    return run_hydra(overrides)


def run_hydra(overrides: list[str]) -> int:
    """Run the jobs of Hydra's overrides; return the highest exit code.

    Raises:
        OptionError: The config cannot be composed, or the run's folder cannot be written.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    codes = [0]

    def job(cfg: DictConfig) -> None:
        codes.append(report_error(lambda: _run(cfg)))

    # without it, Hydra prints its own message and exits with 1; with it, Hydra raises, and the error is reported here
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = ["fastserve", *overrides]
    register_plugin_configs()
    try:
        if any(override.startswith("-") for override in overrides):
            _start_with_flags(job)
        else:
            _start(job, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        _explain_override_error(overrides, error)
        raise OptionError(_first_lines(error)) from error
    except OSError as error:
        raise OptionError(f"the run's folder cannot be written: {error}") from error
    return max(codes)


def _start_with_flags(job: Callable[[DictConfig], None]) -> None:
    import hydra

    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(job)()


def _start(job: Callable[[DictConfig], None], overrides: list[str]) -> None:
    """Do the same as ``hydra.main`` without flags, but compose the config once.

    ``hydra.main`` composes it twice, first to read ``hydra.mode``. Here that happens only if composing for a single
    run fails, as it does for a config that sets the mode to MULTIRUN.
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
                raise  # the error has nothing to do with the mode
            if hydra.get_mode("config", overrides) != RunMode.MULTIRUN:
                raise
            hydra.multirun("config", job, overrides)


def _run(cfg: DictConfig) -> int:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from fastserve_core.config.options import resolve_interpolations
    from fastserve_core.pipeline.execute import execute
    from fastserve_core.processes.environment import set_library_environment, skip_compile_cache

    hydra = HydraConfig.get()
    cfg = resolve_interpolations(cfg)
    sources = (OmegaConf.select(cfg, key) for key in ("model.kind", "data.source"))
    set_library_environment(offline="hub" not in sources)
    skip_compile_cache()
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # they may contain interpolations
    user_overrides = frozenset(str(override).partition("=")[0].lstrip("+~") for override in overrides)
    execute(cfg, Path(hydra.runtime.output_dir), user_overrides)
    return 0


def _explain_override_error(overrides: list[str], error: Exception) -> None:
    """Raise an error for every override of an unknown option, with "did you mean", if that is why Hydra failed."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    unreadable = getattr(error, "override", None)
    if unreadable is not None and "=" not in unreadable:
        raise OptionError(f"'{unreadable}' is neither option=value nor a command{did_you_mean(unreadable, COMMANDS)}")
    if unreadable is not None:
        raise OptionError(f"'{unreadable}' cannot be read as option=value: {_first_lines(error, 1)}")
    values = [override for override in overrides if not override.startswith("-")]
    choices = [override for override in values if override.partition("=")[0].lstrip("+") in GROUPS]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            cfg = compose("config", overrides=choices)
    except Exception:
        return  # the choices of groups do not compose: Hydra's own message explains it
    errors = ErrorCollector()
    for override in values:
        with errors.collect():
            if override not in choices and not override.startswith(("+", "hydra")):
                _check_path(cfg, override)
    errors.raise_if_any()


def _check_path(cfg: DictConfig, override: str) -> None:
    key = override.lstrip("~").partition("=")[0]
    node: Any = cfg
    parents: list[str] = []
    for name in key.split("."):
        if not hasattr(node, "keys"):
            raise OptionError(f"{'.'.join(parents)} is a value and has no '{name}'")
        if name not in node:
            raise OptionError(_unknown_option_message(parents, name, list(map(str, node))))
        parents.append(name)
        node = node._get_node(name)
        node = node if hasattr(node, "keys") and not node._is_none() else None


def _unknown_option_message(parents: list[str], name: str, known: list[str]) -> str:
    path = ".".join(parents) or "the config"
    if not known and parents and parents[0] in (*STAGES, OBSERVE):
        return f"{path} has no '{name}': no such plugin is chosen; add +plugin={name}"
    return f"{path} has no option '{name}'{did_you_mean(name, known)}"


def _first_lines(error: Exception, count: int = 4) -> str:
    """Return the first lines of a message, without the hint to Hydra's debugging switch."""
    if isinstance(error, FastServeError):
        return str(error)
    lines = [line for line in str(error).splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
    return "\n".join(lines[:count])

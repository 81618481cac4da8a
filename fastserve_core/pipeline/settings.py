"""The run's config as typed settings, with everything that is wrong with it said at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fastserve_core.artifacts.artifact import COMPILED, TRAINABLE
from fastserve_core.artifacts.store import default_home
from fastserve_core.config.nodes import DataOptions, GateOptions, ModelSpec
from fastserve_core.config.options import ROOT, parse_options
from fastserve_core.errors import ErrorCollector, InvalidOption, InvalidPlan
from fastserve_core.inference.engines import AUTO, check_engine, check_generates
from fastserve_core.pipeline.search_scope import check_search
from fastserve_core.plugins.hookspecs import OBSERVE, STAGES
from fastserve_core.plugins.registry import Registry
from fastserve_core.tasks.load import load_task
from fastserve_core.tasks.task import Task


@dataclass
class PreflightOptions:
    """``enforce`` refuses to train what is expected not to fit into memory."""

    enforce: bool = True


@dataclass
class RunOptions:
    """The root of the config, but for the nodes that have a class of their own."""

    seed: int = 0
    home: str | None = None
    engine: str = AUTO
    default_observers: list[str] = field(default_factory=list)
    blocked_plugins: list[str] = field(default_factory=list)
    gate: GateOptions = field(default_factory=GateOptions)
    preflight: PreflightOptions = field(default_factory=PreflightOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise InvalidOption(f"seed must lie between 0 and 2^32 - 1, not {self.seed}")
        check_engine(self.engine)


CONFIG_SECTIONS = {"task", "data", "model", OBSERVE, *STAGES}


@dataclass
class Settings:
    """A run that can be planned: its typed options and its activated plugins."""

    general: RunOptions
    model: ModelSpec
    data: DataOptions
    task: Task
    registry: Registry
    user_overrides: frozenset[str] = frozenset()

    @property
    def home(self) -> Path:
        home = self.general.home
        return Path(home).expanduser().absolute() if home else default_home()

    @property
    def needs_data(self) -> bool:
        return any(self.registry.plugins_for(stage) for stage in ("tune", "train", "compress"))


def read_settings(cfg: DictConfig, user_overrides: frozenset[str] = frozenset()) -> Settings:
    """Check the whole config and activate its plugins.

    ``user_overrides`` are the paths that the user set on the command line. Raises every fault together.
    """
    faults = ErrorCollector()
    found: dict[str, Any] = {}

    def read(name: str, function: Any, *arguments: Any) -> None:
        with faults.collect():
            found[name] = function(*arguments)

    rest = OmegaConf.masked_copy(cfg, [str(name) for name in cfg if name not in CONFIG_SECTIONS])
    read("general", parse_options, RunOptions, rest, ROOT)
    read("model", parse_options, ModelSpec, cfg.model, "model")
    read("data", parse_options, DataOptions, cfg.data, "data")
    read("task", _task, cfg.task)
    registry = Registry(blocked=list(cfg.get("blocked_plugins") or ()))
    for place, name, options in selected_plugins(cfg):
        read(f"{place}.{name}", registry.activate, place, name, options)
    faults.raise_if_any()
    settings = Settings(registry=registry, user_overrides=user_overrides, **{name: found[name] for name in _FIELDS})
    check_plan(settings)
    return settings


_FIELDS = ("general", "model", "data", "task")


def selected_plugins(cfg: DictConfig) -> list[tuple[str, str, Any]]:
    """``(place, plugin, options)`` in the order of the config; default observers come first."""
    observers = dict.fromkeys(cfg.get("default_observers") or (), None) | dict(cfg.get(OBSERVE) or {})
    blocked = set(cfg.get("blocked_plugins") or ())
    first = [(OBSERVE, str(name), options) for name, options in observers.items() if name not in blocked]
    return first + [
        (stage, str(name), options) for stage in STAGES for name, options in dict(cfg.get(stage) or {}).items()
    ]


def _task(node: DictConfig) -> Task:
    options = {str(name): value for name, value in node.items()}
    return load_task(str(options.pop("name", "")), options)


def check_plan(settings: Settings) -> None:
    """Refuse an order of stages that cannot work, before anything runs.

    Raises:
        InvalidPlan: A plugin lacks another one, or cannot take the result of the one before it.
    """
    registry, task = settings.registry, settings.task
    if registry.tuner is not None:
        check_search(registry, registry.tuner)
    check_generates(settings.general.engine, task)
    compiler: str | None = None
    for active in registry.compressors:
        plugin = active.plugin
        if plugin.trains and registry.trainer is None:
            raise InvalidPlan(f"'{active.name}' needs a trainer: add one, e.g. +plugin=[torch_ddp,{active.name}]")
        if plugin.tasks and task.name not in plugin.tasks:
            raise InvalidPlan(
                f"plugin '{active.name}' compresses models for {', '.join(plugin.tasks)}, not for {task.name}"
            )
        plugin.check_task(task)
        takes, gives = plugin.form
        if compiler and takes == TRAINABLE:
            raise InvalidPlan(
                f"'{compiler}' makes an engine form, which '{active.name}' cannot take: put '{active.name}' before it"
            )
        compiler = active.name if gives == COMPILED else compiler

"""The run's config as typed settings; all errors in it are reported together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fastserve_core.artifacts.artifact import COMPILED, TRAINABLE
from fastserve_core.artifacts.files import expand_user
from fastserve_core.artifacts.store import default_home
from fastserve_core.config.nodes import DataOptions, GateOptions, ModelSpec
from fastserve_core.config.options import ROOT, parse_options
from fastserve_core.errors import ErrorCollector, OptionError, PlanError
from fastserve_core.inference.engines import AUTO, check_engine, check_generation
from fastserve_core.pipeline.search_scope import check_search
from fastserve_core.plugins.hookspecs import OBSERVE, STAGES
from fastserve_core.plugins.registry import Registry
from fastserve_core.plugins.verbs import ask_plugin
from fastserve_core.tasks.load import load_task
from fastserve_core.tasks.task import Task


@dataclass
class PreflightOptions:
    """The ``preflight`` node of the config.

    Attributes:
        enforce: Whether a training that is not expected to fit into memory is an error.
        max_minutes: The time that a run may take on this machine: the search and the training are shortened to it.
    """

    enforce: bool = True
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise OptionError(f"preflight.max_minutes must be above 0, not {self.max_minutes}")


@dataclass
class LearningCurveOptions:
    """The ``learning_curve`` node of the config.

    Attributes:
        enabled: Whether to train on parts of the rows too, for a forecast of the score with more rows.
        fractions: The parts of the training rows.
    """

    enabled: bool = False
    fractions: list[float] = field(default_factory=lambda: [0.12, 0.25, 0.5])

    def __post_init__(self) -> None:
        if wrong := [fraction for fraction in self.fractions if not 0 < fraction < 1]:
            raise OptionError(f"learning_curve.fractions must lie between 0 and 1, not {wrong[0]}")


@dataclass
class RunOptions:
    """The root of the config, without the nodes that have a class of their own.

    Attributes:
        seed: The seed of the run, from 0 to 2^32 - 1.
        home: The folder of the store; by default ``FASTSERVE_HOME``, else ``.fastserve`` in the working directory.
        engine: The engine that runs the models, or ``auto``: the fastest on this machine.
        default_observers: Observers of every run.
        blocked_plugins: Plugins that may not be used.
        gate: The gate's options.
        preflight: The options of the check before a training.
        learning_curve: The options of the learning curve.
    """

    seed: int = 0
    home: str | None = None
    engine: str = AUTO
    default_observers: list[str] = field(default_factory=list)
    blocked_plugins: list[str] = field(default_factory=list)
    gate: GateOptions = field(default_factory=GateOptions)
    preflight: PreflightOptions = field(default_factory=PreflightOptions)
    learning_curve: LearningCurveOptions = field(default_factory=LearningCurveOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise OptionError(f"seed must lie between 0 and 2^32 - 1, not {self.seed}")
        check_engine(self.engine)


CONFIG_SECTIONS = {"task", "data", "model", OBSERVE, *STAGES}


@dataclass
class Settings:
    """The typed options and the activated plugins of a run.

    Attributes:
        general: The root of the config.
        model: The model to start from.
        data: The options of the data.
        task: The task.
        registry: The activated plugins.
        user_overrides: Paths of the options that the user set.
    """

    general: RunOptions
    model: ModelSpec
    data: DataOptions
    task: Task
    registry: Registry
    user_overrides: frozenset[str] = frozenset()

    @property
    def home(self) -> Path:
        """The folder of the store."""
        home = self.general.home
        return expand_user(home).absolute() if home else default_home()

    @property
    def needs_data(self) -> bool:
        """Whether a stage of the run works on data."""
        return any(self.registry.plugins_for(stage) for stage in ("tune", "train", "compress"))


def read_settings(cfg: DictConfig, user_overrides: frozenset[str] = frozenset()) -> Settings:
    """Check the config and activate its plugins.

    Args:
        cfg: The composed config.
        user_overrides: The paths that the user set on the command line.

    Raises:
        UserError: One option or plugin is wrong.
        ValidationError: Several are.
    """
    errors = ErrorCollector()
    values: dict[str, Any] = {}

    def read(name: str, function: Any, *arguments: Any) -> None:
        with errors.collect():
            values[name] = function(*arguments)

    root = OmegaConf.masked_copy(cfg, [str(name) for name in cfg if name not in CONFIG_SECTIONS])
    read("general", parse_options, RunOptions, root, ROOT)
    read("model", parse_options, ModelSpec, _node(cfg, "model"), "model")
    read("data", parse_options, DataOptions, _node(cfg, "data"), "data")
    read("task", _read_task, cfg)
    general: RunOptions = values.get("general") or RunOptions()
    registry = Registry(blocked=general.blocked_plugins)
    for section, name, options in _selected_plugins(cfg, general, errors):
        read(f"{section}.{name}", registry.activate, section, name, options)
    errors.raise_if_any()
    settings = Settings(
        registry=registry,
        user_overrides=user_overrides,
        **{name: values[name] for name in ("general", "model", "data", "task")},
    )
    check_plan(settings)
    return settings


def _selected_plugins(cfg: DictConfig, general: RunOptions, errors: ErrorCollector) -> list[tuple[str, str, Any]]:
    """List ``(section, plugin, options)`` in the order of the config; observers come first."""
    chosen: dict[str, dict[str, Any]] = {section: {} for section in (OBSERVE, *STAGES)}
    for section in chosen:
        with errors.collect():
            node = _section(cfg, section)
            chosen[section] = {str(name): _node(node, name) for name in node}
    observers = dict.fromkeys(general.default_observers, None) | chosen.pop(OBSERVE)
    selected = [(OBSERVE, name, options) for name, options in observers.items() if name not in general.blocked_plugins]
    return selected + [(stage, name, options) for stage, plugins in chosen.items() for name, options in plugins.items()]


def _node(parent: DictConfig, name: Any) -> Any:
    """Return a child; ``None`` if there is none, and ``???`` if its value is missing."""
    return "???" if OmegaConf.is_missing(parent, name) else parent.get(name)


def _section(cfg: DictConfig, name: str) -> DictConfig:
    node = _node(cfg, name)
    if not isinstance(node, DictConfig | None):
        raise OptionError(f"{name} must be a mapping, not {node!r}")
    return OmegaConf.create() if node is None else node


def _read_task(cfg: DictConfig) -> Task:
    node = _section(cfg, "task")
    options = OmegaConf.masked_copy(node, [str(name) for name in node if name != "name"])
    return load_task(str(_node(node, "name") or ""), options)


def check_plan(settings: Settings) -> None:
    """Check the order of the stages before anything runs.

    Raises:
        PlanError: A plugin needs another one, or cannot take the result of the one before it.
    """
    registry, task = settings.registry, settings.task
    if registry.tuner is not None:
        check_search(registry, registry.tuner, task)
    check_generation(settings.general.engine, task)
    compiling_plugin: str | None = None
    for active in registry.compressors:
        plugin = active.plugin
        if plugin.trains and registry.trainer is None:
            raise PlanError(f"'{active.name}' needs a trainer: add one, e.g. +plugin=[torch_ddp,{active.name}]")
        if plugin.tasks and task.name not in plugin.tasks:
            raise PlanError(
                f"plugin '{active.name}' compresses models for {', '.join(plugin.tasks)}, not for {task.name}"
            )
        ask_plugin(active, "check_task", task)
        input_form, output_form = plugin.form
        if compiling_plugin and input_form == TRAINABLE:
            raise PlanError(
                f"'{active.name}' needs trainable weights, but '{compiling_plugin}' makes files for an engine: "
                f"put '{active.name}' before it"
            )
        compiling_plugin = active.name if output_form == COMPILED else compiling_plugin

"""The registry of a run's activated plugins."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet

import pluggy

from fastserve_core.entry_points import blocked_plugins, installed_plugins
from fastserve_core.errors import PluginError, UnknownNameError, UserError
from fastserve_core.events import Event, WarningRaised
from fastserve_core.plugins.base import BASES, Compressor, Plugin, Server, Trainer, Tuner
from fastserve_core.plugins.hookspecs import OBSERVE, PROJECT_NAME, REPEATABLE_STAGES, STAGES, Hooks
from fastserve_core.plugins.load import load_plugin

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger("fastserve")

CONFIG_SECTIONS = (*STAGES, OBSERVE)

P = TypeVar("P", bound=Plugin)


@dataclass(frozen=True)
class ActivePlugin(Generic[P]):
    """An activated plugin.

    Attributes:
        section: The section of the config that it is in: its stage, or ``observe``.
        name: The plugin's name.
        version: The version of its distribution.
        plugin: The plugin.
        options: Its typed options.
    """

    section: str
    name: str
    version: str
    plugin: P
    options: Any

    @property
    def path(self) -> str:
        """The path of its options in the config, such as ``train.torch_ddp``."""
        return f"{self.section}.{self.name}"

    def select_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Select this plugin's options from a mapping by full path; return them by name."""
        prefix = self.path + "."
        return {path.removeprefix(prefix): value for path, value in options.items() if path.startswith(prefix)}


class Registry:
    """The activated plugins of one run.

    Args:
        blocked: Plugins that may not be activated, besides those of ``FASTSERVE_BLOCK_PLUGINS``.

    Attributes:
        observer_threads: The threads that observers have started.
    """

    def __init__(self, blocked: Iterable[str] = ()) -> None:
        self._hooks = pluggy.PluginManager(PROJECT_NAME)
        self._hooks.add_hookspecs(Hooks)
        self._active: dict[str, list[ActivePlugin[Any]]] = {section: [] for section in CONFIG_SECTIONS}
        self._blocked = {*blocked, *blocked_plugins()}
        self._disabled: set[object] = set()
        self._notify_lock = threading.RLock()
        self.observer_threads: WeakSet[threading.Thread] = WeakSet()

    def activate(self, section: str, name: str, options: Mapping[str, Any] | DictConfig | None) -> ActivePlugin[Any]:
        """Import a plugin, check it and its options, and add it to a section of the config.

        Args:
            section: A stage, or ``observe``.
            name: The plugin's name.
            options: Its options by name; the others have their defaults.

        Raises:
            UnknownNameError: No such plugin is installed.
            PluginError: The plugin is blocked, does not fit the section, or the section is full.
            MissingPackageError: A module that it requires is not installed.
            OptionError: An option is wrong; several are ``ValidationError``.
        """
        from fastserve_core.config.options import parse_options

        known = installed_plugins()
        if name not in known:
            raise UnknownNameError("plugin", name, known, advice="; is its package installed?")
        if name in self._blocked:
            raise PluginError(f"plugin '{name}' is blocked, but '{section}' has it")
        if self._active[section] and section in STAGES and section not in REPEATABLE_STAGES:
            other = self._active[section][0].name
            raise PluginError(f"stage '{section}' takes one plugin, but '{other}' and '{name}' are chosen")
        kind = load_plugin(known[name])
        if not issubclass(kind, BASES[section]):
            raise PluginError(
                f"plugin '{name}' ({known[name].source}) cannot fill '{section}': its class must derive from "
                f"fastserve_core.plugins.{BASES[section].__name__}"
            )
        typed_options = parse_options(kind.Options, options, f"{section}.{name}")
        try:
            plugin = kind(typed_options)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(f"plugin '{name}' cannot be created: {type(error).__name__}: {error}") from error
        self._register(plugin, section, name)
        active = ActivePlugin(section, name, known[name].version, plugin, typed_options)
        self._active[section].append(active)
        return active

    def add_observer(self, observer: object) -> None:
        """Add an observer that is not an installed plugin, but an object of the caller.

        Raises:
            PluginError: It does not fit the hook specifications.
        """
        self._register(observer, OBSERVE, f"{type(observer).__name__}-{id(observer)}")

    def plugins_for(self, section: str) -> list[ActivePlugin[Any]]:
        """List the plugins of a section of the config, in the order they were chosen."""
        return list(self._active[section])

    @property
    def tuner(self) -> ActivePlugin[Tuner] | None:
        """The plugin of the stage ``tune``."""
        return next(iter(self._active["tune"]), None)

    @property
    def trainer(self) -> ActivePlugin[Trainer] | None:
        """The plugin of the stage ``train``."""
        return next(iter(self._active["train"]), None)

    @property
    def compressors(self) -> list[ActivePlugin[Compressor]]:
        """The plugins of the stage ``compress``, in the order they were chosen."""
        return list(self._active["compress"])

    @property
    def server(self) -> ActivePlugin[Server] | None:
        """The plugin of the stage ``serve``."""
        return next(iter(self._active["serve"]), None)

    def call(self, active: ActivePlugin[Any], verb: str, optional: bool = False, **arguments: Any) -> Any:
        """Call a verb of one stage plugin, with the wrappers of all observers around it.

        Args:
            active: The plugin.
            verb: The verb.
            optional: Whether the verb may be missing or return nothing.
            arguments: The verb's arguments.

        Returns:
            The verb's result; ``None`` only if it is optional.

        Raises:
            PluginError: The verb returned nothing.
        """
        others = [other.plugin for stage in STAGES for other in self._active[stage] if other is not active]
        result = self._hooks.subset_hook_caller(verb, others)(**arguments)
        if result is None and not optional:
            raise PluginError(f"plugin '{active.path}' returned nothing from '{verb}'")
        return result

    def with_overrides(self, active: ActivePlugin[P], changes: Mapping[str, Any]) -> tuple[Registry, ActivePlugin[P]]:
        """Copy the registry with some options of one plugin replaced.

        Args:
            active: The plugin.
            changes: Its new options by name.

        Returns:
            The copy, and the plugin in it. This registry does not change.

        Raises:
            OptionError: An option is wrong.
        """
        changed = self._rebuild(active, changes)
        return self._copy({active.path: changed}), changed

    def without(self, active: ActivePlugin[Any]) -> Registry:
        """Copy the registry without one plugin.

        Args:
            active: The plugin.
        """
        return self._copy({active.path: None})

    def _copy(self, changes: Mapping[str, ActivePlugin[Any] | None]) -> Registry:
        """Copy the registry with some plugins replaced, or left out."""
        other = Registry()
        other._blocked, other._disabled, other._notify_lock = self._blocked, self._disabled, self._notify_lock
        other.observer_threads = self.observer_threads
        replaced: dict[object, object] = {}
        for section, plugins in self._active.items():
            for active in plugins:
                changed = changes.get(active.path, active)
                replaced[active.plugin] = changed.plugin if changed is not None else None
                if changed is not None:
                    other._active[section].append(changed)
        for name, plugin in self._hooks.list_name_plugin():
            if (registered := replaced.get(plugin, plugin)) is not None:
                other._hooks.register(registered, name)
        return other

    def _rebuild(self, active: ActivePlugin[P], changes: Mapping[str, Any]) -> ActivePlugin[P]:
        from fastserve_core.config.options import parse_options

        values = asdict(active.options) | dict(changes)
        options = parse_options(type(active.options), values, active.path)
        return replace(active, options=options, plugin=type(active.plugin)(options))

    def notify(self, event: Event) -> None:
        """Pass an event to the observers in turn.

        An observer that fails is disabled with a warning, because a run can continue without it.

        Args:
            event: The event.
        """
        observers = [implementation.plugin for implementation in reversed(self._hooks.hook.observe.get_hookimpls())]
        for observer in observers:
            others = [other for other in observers if other is not observer]
            with self._notify_lock:
                if observer in self._disabled:
                    continue
                threads = set(threading.enumerate())
                try:
                    self._hooks.subset_hook_caller("observe", others)(event=event)
                except Exception as error:
                    self._disabled.add(observer)
                    self._warn(observer, error)
                self.observer_threads.update(set(threading.enumerate()) - threads)

    def _warn(self, observer: object, error: Exception) -> None:
        paths = (active.path for active in self.plugins_for(OBSERVE) if active.plugin is observer)
        name = next(paths, type(observer).__name__)
        message = f"{name} failed and is disabled, the run continues: {str(error) or type(error).__name__}"
        print(f"warning: {message}", file=sys.stderr)  # not an event: the observer may be the one that shows warnings
        log.info("%s", WarningRaised(message), exc_info=error)

    def _register(self, plugin: object, section: str, name: str) -> None:
        if type(plugin).__hash__ is not object.__hash__:
            raise PluginError(f"plugin '{name}' must compare by identity: a dataclass needs eq=False")
        try:
            self._hooks.register(plugin, f"{section}.{name}")
            self._hooks.check_pending()
        except pluggy.PluginValidationError as error:
            self._hooks.unregister(name=f"{section}.{name}")
            raise PluginError(f"plugin '{name}' does not fit the hook specs: {error}") from error
        verbs = {caller.name for caller in self._hooks.get_hookcallers(plugin) or ()}
        if section in STAGES and section not in verbs:
            raise PluginError(f"plugin '{name}' implements no '{section}'")

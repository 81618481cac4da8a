"""Finds installed plugins without importing them, and activates the chosen ones."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pluggy

from fastserve_core.entry_points import PluginEntry, blocked_by_environment, installed_plugins, missing_packages
from fastserve_core.errors import MissingPackage, PluginError, UnknownName
from fastserve_core.events import Event, WarningRaised
from fastserve_core.plugins.base import BASES, Compressor, Plugin, Server, Trainer, Tuner
from fastserve_core.plugins.hookspecs import API_VERSION, OBSERVE, PROJECT_NAME, REPEATABLE_STAGES, STAGES, Hooks

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger("fastserve")

CONFIG_SECTIONS = (*STAGES, OBSERVE)

P = TypeVar("P", bound=Plugin)


def load_plugin(entry: PluginEntry) -> type[Plugin]:
    """The plugin's class, imported and checked: API version, identity, and required packages."""
    try:
        kind: type[Plugin] = entry.entry_point.load()
    except (ImportError, AttributeError) as error:
        raise PluginError(f"plugin '{entry.name}' ({entry.source}) could not be imported: {error}") from error
    built_for = getattr(kind, "api_version", None)
    if built_for != API_VERSION:
        raise PluginError(
            f"plugin '{entry.name}' ({entry.source}) is built for plugin API {built_for}; "
            f"this FastServe has API {API_VERSION}"
        )
    if not issubclass(kind, Plugin):
        raise PluginError(
            f"plugin '{entry.name}' ({entry.source}) must derive from a class of fastserve_core.plugins: "
            f"{', '.join(base.__name__ for base in BASES.values())}"
        )
    if not hasattr(kind, "Options"):
        raise PluginError(f"plugin '{entry.name}' ({entry.source}) has no Options dataclass")
    missing = missing_packages(kind.requires)
    if missing:
        raise MissingPackage(f"plugin '{entry.name}' needs {', '.join(missing)}: {entry.install_hint}")
    return kind


@dataclass(frozen=True)
class ActivePlugin(Generic[P]):
    """A plugin in its section of the config, with its typed options."""

    place: str
    name: str
    version: str
    plugin: P
    options: Any

    @property
    def path(self) -> str:
        """The path of its options in the config, such as ``train.torch_ddp``."""
        return f"{self.place}.{self.name}"

    def select_options(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Take this plugin's options, by name, out of a mapping by full path."""
        prefix = self.path + "."
        return {path.removeprefix(prefix): value for path, value in found.items() if path.startswith(prefix)}


class Registry:
    """The activated plugins of one run."""

    def __init__(self, blocked: Iterable[str] = ()) -> None:
        self._hooks = pluggy.PluginManager(PROJECT_NAME)
        self._hooks.add_hookspecs(Hooks)
        self._active: dict[str, list[ActivePlugin[Any]]] = {place: [] for place in CONFIG_SECTIONS}
        self._blocked = {*blocked, *blocked_by_environment()}
        self._left_out: set[object] = set()
        self._telling = threading.RLock()

    def activate(self, place: str, name: str, options: Mapping[str, Any] | DictConfig | None) -> ActivePlugin[Any]:
        """Import the plugin, check it and its options, and put it into the place."""
        from fastserve_core.config.options import parse_options

        known = installed_plugins()
        if name not in known:
            raise UnknownName("plugin", name, known, advice="; is its package installed?")
        if name in self._blocked:
            raise PluginError(f"plugin '{name}' is blocked, yet '{place}' asks for it")
        if self._active[place] and place in STAGES and place not in REPEATABLE_STAGES:
            other = self._active[place][0].name
            raise PluginError(f"stage '{place}' takes one plugin, but '{other}' and '{name}' are chosen")
        kind = load_plugin(known[name])
        if not issubclass(kind, BASES[place]):
            raise PluginError(
                f"plugin '{name}' ({known[name].source}) cannot fill '{place}': its class must derive from "
                f"fastserve_core.plugins.{BASES[place].__name__}"
            )
        checked = parse_options(kind.Options, options, f"{place}.{name}")
        plugin = kind(checked)
        self._register(plugin, place, name)
        active = ActivePlugin(place, name, known[name].version, plugin, checked)
        self._active[place].append(active)
        return active

    def add_observer(self, observer: object) -> None:
        """Add an observer that is no installed plugin (the caller's own object)."""
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
        """Run one plugin's verb, with every observer's wrappers around it and no other stage plugin."""
        everyone = [one for place in STAGES for one in self._active[place]]
        others = [one.plugin for one in everyone if one is not active]
        result = self._hooks.subset_hook_caller(verb, others)(**arguments)
        if result is None and not optional:
            raise PluginError(f"plugin '{active.path}' returned nothing from '{verb}'")
        return result

    def with_overrides(self, active: ActivePlugin[P], changes: Mapping[str, Any]) -> tuple[Registry, ActivePlugin[P]]:
        """Make a registry of the same plugins in which one has some options replaced; this one stays as it is."""
        changed = self._rebuild(active, changes)
        other = Registry()
        other._blocked, other._left_out, other._telling = self._blocked, self._left_out, self._telling
        other._active = {
            section: [changed if plugin is active else plugin for plugin in plugins]
            for section, plugins in self._active.items()
        }
        for name, plugin in self._hooks.list_name_plugin():
            other._hooks.register(changed.plugin if plugin is active.plugin else plugin, name)
        return other, changed

    def _rebuild(self, active: ActivePlugin[P], changes: Mapping[str, Any]) -> ActivePlugin[P]:
        from fastserve_core.config.options import parse_options

        values = asdict(active.options) | dict(changes)
        options = parse_options(type(active.options), values, active.path)
        return replace(active, options=options, plugin=type(active.plugin)(options))

    def notify(self, event: Event) -> None:
        """Hand an event to the observers in turn; one that fails is said once and left out, for a run needs none."""
        everyone = [one.plugin for one in reversed(self._hooks.hook.observe.get_hookimpls())]
        for observer in everyone:
            others = [one for one in everyone if one is not observer]
            with self._telling:
                if observer in self._left_out:
                    continue
                try:
                    self._hooks.subset_hook_caller("observe", others)(event=event)
                except Exception as error:
                    self._left_out.add(observer)
                    self._warn(observer, error)

    def _warn(self, observer: object, error: Exception) -> None:
        """To the user, and to the run's log with the place in the code: an observer may be what shows warnings."""
        name = next((one.path for one in self.plugins_for(OBSERVE) if one.plugin is observer), type(observer).__name__)
        message = f"{name} failed, the run goes on without it: {str(error) or type(error).__name__}"
        print(f"warning: {message}", file=sys.stderr)
        log.info("%s", WarningRaised(message), exc_info=error)

    def _register(self, plugin: object, place: str, name: str) -> None:
        if type(plugin).__hash__ is not object.__hash__:
            raise PluginError(f"plugin '{name}' must compare by identity: a dataclass needs eq=False")
        try:
            self._hooks.register(plugin, f"{place}.{name}")
            self._hooks.check_pending()
        except pluggy.PluginValidationError as error:
            self._hooks.unregister(name=f"{place}.{name}")
            raise PluginError(f"plugin '{name}' does not fit the hook specs: {error}") from error
        if not any(caller.name == place for caller in self._hooks.get_hookcallers(plugin) or ()) and place in STAGES:
            raise PluginError(f"plugin '{name}' implements no '{place}'")

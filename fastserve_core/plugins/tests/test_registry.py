"""The registry: found without import, refused with a reason, called one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastserve_core import entry_points, hookimpl
from fastserve_core.entry_points import installed_plugins, load_entry_point, missing_packages
from fastserve_core.errors import MissingPackageError, OptionError, PluginError, UnknownNameError
from fastserve_core.events import Event, StageStarted, WarningRaised
from fastserve_core.plugins.base import Compressor, Observer, Trainer
from fastserve_core.plugins.registry import Registry


@dataclass
class ToyOptions:
    strength: float = 0.5
    name: str = "x"

    def __post_init__(self) -> None:
        if self.strength > 1:
            raise ValueError("strength must be at most 1")


class Toy(Compressor):
    api_version = 2
    Options = ToyOptions

    def __init__(self, options: ToyOptions) -> None:
        self.options = options

    @hookimpl
    def compress(self, run: Any) -> Any:
        return (run, self.options.strength)


class Second(Toy):
    pass


class Old(Toy):
    api_version = 0


class Missing(Toy):
    requires = ("no_such_package",)


class Idle(Compressor):
    api_version = 2
    Options = ToyOptions


class ToyTrainer(Trainer):
    api_version = 2
    Options = ToyOptions

    @hookimpl
    def train(self, run: Any) -> Any:
        return run


class Misspelt(Toy):
    @hookimpl
    def comprss(self, run: Any) -> Any:
        return run


class WrongArgument(Toy):
    @hookimpl
    def compress(self, runn: Any) -> Any:
        return runn


class Silent(Toy):
    @hookimpl
    def compress(self, run: Any) -> Any:
        return None


class Failing(Observer):
    api_version = 2
    Options = ToyOptions

    def __init__(self, options: ToyOptions) -> None:
        self.told: list[Event] = []

    @hookimpl
    def observe(self, event: Event) -> None:
        self.told.append(event)
        raise OSError("no such disk")


@dataclass
class ByValue(Compressor):
    options: Any
    api_version = 2
    Options = ToyOptions


class NoOptions(Compressor):
    api_version = 2


class Foreign:
    api_version = 2
    Options = ToyOptions


class Uncreatable(Toy):
    def __init__(self, options: ToyOptions) -> None:
        raise KeyError("no such key")


KINDS = (
    Toy,
    Uncreatable,
    Second,
    Old,
    Missing,
    Idle,
    ToyTrainer,
    Foreign,
    Misspelt,
    WrongArgument,
    Silent,
    Failing,
    ByValue,
    NoOptions,
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An environment in which these classes are the installed plugins."""
    import sys

    module = ModuleType("toy_plugins")
    for kind in KINDS:
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "toy_plugins", module)
    entries = [EntryPoint(kind.__name__.lower(), f"toy_plugins:{kind.__name__}", entry_points.GROUP) for kind in KINDS]
    entries.append(EntryPoint("broken", "no_such_module:Plugin", entry_points.GROUP))
    for name, code in (("leaving", "raise SystemExit(0)"), ("raising", "1 / 0"), ("function", "P = print")):
        (tmp_path / f"{name}_plugin.py").write_text(code)
        entries.append(EntryPoint(name, f"{name}_plugin:P", entry_points.GROUP))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(entry_points, "all_entry_points", lambda: EntryPoints(entries))
    yield


def test_an_unknown_plugin_is_reported_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="no plugin named 'toi'; did you mean 'toy'"):
        Registry().activate("compress", "toi", {})


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("old", PluginError, "built for plugin API 0; this FastServe has API 2"),
        ("missing", MissingPackageError, "needs no_such_package: pip install"),
        ("idle", PluginError, "implements no 'compress'"),
        ("toytrainer", PluginError, "must derive from fastserve_core.plugins.Compressor"),
        ("misspelt", PluginError, "comprss"),
        ("wrongargument", PluginError, "runn"),
        ("byvalue", PluginError, "eq=False"),
        ("nooptions", PluginError, "no Options"),
        ("broken", PluginError, "could not be imported"),
        ("leaving", PluginError, "could not be imported: SystemExit: 0"),
        ("raising", PluginError, "could not be imported: ZeroDivisionError: division by zero"),
        ("function", PluginError, "is built for plugin API None"),
        ("uncreatable", PluginError, "cannot be created: KeyError: 'no such key'"),
    ],
)
def test_a_plugin_that_does_not_fit_is_refused_with_the_reason(name: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        Registry().activate("compress", name, {})


def test_options_are_typed_and_every_fault_is_reported() -> None:
    with pytest.raises(OptionError, match="no option 'strenght'; did you mean 'strength'"):
        Registry().activate("compress", "toy", {"strenght": 1})
    with pytest.raises(OptionError, match=r"compress\.toy\.strength='much'"):
        Registry().activate("compress", "toy", {"strength": "much"})
    with pytest.raises(OptionError, match=r"compress\.toy: strength must be at most 1"):
        Registry().activate("compress", "toy", {"strength": 2.0})
    with pytest.raises(Exception, match="2 errors") as error:
        Registry().activate("compress", "toy", {"strength": "much", "nmae": "y"})
    assert "'nmae'; did you mean 'name'" in str(error.value)


def test_blocked_plugins_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PluginError, match="is blocked"):
        Registry(blocked=["toy"]).activate("compress", "toy", {})
    monkeypatch.setenv("FASTSERVE_BLOCK_PLUGINS", "second,toy")
    with pytest.raises(PluginError, match="is blocked"):
        Registry().activate("compress", "toy", {})


def test_only_a_chained_stage_takes_two() -> None:
    chosen = Registry()
    chosen.activate("compress", "toy", {})
    chosen.activate("compress", "second", {})
    assert [active.name for active in chosen.plugins_for("compress")] == ["toy", "second"]
    chosen.activate("train", "toytrainer", {})
    with pytest.raises(PluginError, match="stage 'train' takes one plugin, but 'toytrainer' and 'toytrainer'"):
        chosen.activate("train", "toytrainer", {})


def test_a_call_reaches_one_plugin_and_every_observers_wrapper() -> None:
    class Wrapper:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        @hookimpl(wrapper=True)
        def compress(self, run: Any) -> Any:
            self.seen.append(run)
            result = yield
            self.seen.append(result)
            return result

    chosen, wrapper = Registry(), Wrapper()
    first = chosen.activate("compress", "toy", {"strength": 0.1})
    second = chosen.activate("compress", "second", {"strength": 0.2})
    chosen.add_observer(wrapper)
    assert chosen.call(first, "compress", run="a") == ("a", 0.1)
    assert chosen.call(second, "compress", run="b") == ("b", 0.2)
    assert wrapper.seen == ["a", ("a", 0.1), "b", ("b", 0.2)]


def test_an_observer_that_fails_is_reported_once_and_left_out(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Heard:
        def __init__(self) -> None:
            self.events: list[Event] = []

        @hookimpl
        def observe(self, event: Event) -> None:
            self.events.append(event)

    chosen, first, last = Registry(), Heard(), Heard()
    chosen.add_observer(first)
    failing = chosen.activate("observe", "failing", {}).plugin
    chosen.add_observer(last)
    events = [StageStarted("train", "trainer"), WarningRaised("slow"), WarningRaised("slower")]
    with caplog.at_level("INFO", "fastserve"):
        for event in events:
            chosen.notify(event)
    assert first.events == last.events == events
    assert failing.told == events[:1]
    said = "observe.failing failed and is disabled, the run continues: no such disk"
    assert capfd.readouterr().err == f"warning: {said}\n"
    assert caplog.messages == [str(WarningRaised(said))]
    assert "no such disk" in str(caplog.records[0].exc_info)


def test_an_interrupt_in_an_observer_ends_the_run() -> None:
    class Interrupted:
        @hookimpl
        def observe(self, event: Event) -> None:
            raise KeyboardInterrupt

    chosen = Registry()
    chosen.add_observer(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        chosen.notify(WarningRaised("slow"))


def test_a_registry_with_other_options_leaves_the_first_as_it_is() -> None:
    chosen = Registry()
    active = chosen.activate("compress", "toy", {"strength": 0.1})
    other, changed = chosen.with_overrides(active, {"strength": 0.7})
    assert other.call(changed, "compress", run=1) == (1, 0.7)
    assert other.compressors == [changed]
    assert chosen.call(active, "compress", run=1) == (1, 0.1)
    assert chosen.compressors == [active]
    with pytest.raises(OptionError):
        chosen.with_overrides(active, {"strength": 3})


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("foreign", "compress", "must derive from a class of fastserve_core.plugins: Trainer, Tuner"),
        ("toy", "train", "cannot fill 'train': its class must derive from fastserve_core.plugins.Trainer"),
    ],
)
def test_a_plugin_derives_from_the_base_of_its_stage(name: str, place: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        Registry().activate(place, name, {})


def test_a_verb_that_returns_nothing_is_reported() -> None:
    chosen = Registry()
    active = chosen.activate("compress", "silent", {})
    with pytest.raises(PluginError, match="returned nothing from 'compress'"):
        chosen.call(active, "compress", run=1)
    assert chosen.call(active, "preflight", optional=True, run=1) is None


def test_two_distributions_with_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [EntryPoint("same", f"{module}:P", entry_points.GROUP) for module in ("one", "two")]
    monkeypatch.setattr(entry_points, "all_entry_points", lambda: EntryPoints(twice))
    with pytest.raises(PluginError, match="two distributions provide a plugin 'same'"):
        installed_plugins()


def test_providers_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint("files", "pathlib:Path", "fastserve.data"),
        EntryPoint("gone", "no_such_module:X", "fastserve.data"),
    ]
    monkeypatch.setattr(entry_points, "all_entry_points", lambda: EntryPoints(entries))
    assert load_entry_point("fastserve.data", "files").__name__ == "Path"
    with pytest.raises(UnknownNameError, match="no data named 'file'; did you mean 'files'"):
        load_entry_point("fastserve.data", "file")
    with pytest.raises(MissingPackageError, match="no_such_module"):
        load_entry_point("fastserve.data", "gone")


def test_missing_packages_are_found_without_import() -> None:
    assert missing_packages(["json", "no_such_package"]) == ["no_such_package"]

"""Plugins whose verbs do what a test gives them, and the inputs of a run for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastserve_core import hookimpl
from fastserve_core.artifacts import Artifact, Manifest, copy_tokenizer, hash_files, write_manifest
from fastserve_core.data import Dataset
from fastserve_core.data.dataset import write_description
from fastserve_core.events import Event, WarningRaised
from fastserve_core.plugins import (
    ActivePlugin,
    CompressContext,
    Compressor,
    Registry,
    ServeContext,
    Server,
    StageContext,
    StagedArtifact,
    TrainContext,
    Trainer,
    TuneContext,
    Tuner,
)
from fastserve_core.plugins.verbs import call_verb

Act = Callable[[Any], Any]


@dataclass
class StrangeOptions:
    level: int = 1


class Strange:
    """A verb that does what a test says."""

    api_version = 2
    Options = StrangeOptions
    act: Act

    def __init__(self, options: StrangeOptions) -> None:
        self.options = options


class StrangeCompressor(Strange, Compressor):
    @hookimpl
    def compress(self, run: Any) -> Any:
        return self.act(run)


class StrangeTrainer(Strange, Trainer):
    @hookimpl
    def train(self, run: Any) -> Any:
        return self.act(run)

    @hookimpl
    def preflight(self, run: Any) -> Any:
        return self.act(run)


class StrangeTuner(Strange, Tuner):
    @hookimpl
    def tune(self, run: Any) -> Any:
        return self.act(run)


class StrangeServer(Strange, Server):
    @hookimpl
    def serve(self, run: Any) -> Any:
        return self.act(run)


KINDS: dict[str, tuple[type[Any], type[StageContext]]] = {
    "compress": (StrangeCompressor, CompressContext),
    "train": (StrangeTrainer, TrainContext),
    "preflight": (StrangeTrainer, TrainContext),
    "tune": (StrangeTuner, TuneContext),
    "serve": (StrangeServer, ServeContext),
}
VERBS = ("compress", "train", "tune", "serve")


class Case:
    """A run's inputs in a folder, a plugin for each verb, and the warnings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = self._write_model(folder / "store" / "model")
        self.data = Dataset(folder / "store" / "data", "0", {"train": 1}, ("bad", "good"))
        self.data.folder.mkdir()
        write_description(self.data.folder, self.data)
        self.work = folder / "work"
        self.work.mkdir()
        self.warnings: list[str] = []

    @staticmethod
    def _write_model(folder: Path) -> Artifact:
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_text(f'{{"this": "is {name}"}}')
        runtime = {"engine": "torch", "form": "trainable"}
        manifest = Manifest("text_classification", {}, ("bad", "good"), runtime, (), hash_files(folder), {"size": 1})
        return write_manifest(folder, manifest)

    def call(self, verb: str, act: Act) -> Any:
        kind, context = KINDS[verb]
        registry, plugin = Registry(), kind(StrangeOptions())
        plugin.act = act
        section = "train" if verb == "preflight" else verb
        registry._register(plugin, section, "strange")
        registry.add_observer(self)
        active: ActivePlugin[Any] = ActivePlugin(section, "strange", "1", plugin, plugin.options)
        registry._active[section].append(active)
        more: dict[str, Any] = {} if verb == "serve" else {"data": self.data}
        if verb == "compress":
            more["original"] = self.model
        if verb == "tune":
            more |= {"trial_runner": None, "trial_discarder": None, "trainer_options": {"train.x.lr": 0.1}}
        task = SimpleNamespace(labels=("bad", "good"))
        base: dict[str, Any] = {"model": self.model, "task": task, "folder": self.work, "seed": 0, "threads": 1}
        return call_verb(registry, active, verb, context(**base, emit=registry.notify, **more))

    @hookimpl
    def observe(self, event: Event) -> None:
        if isinstance(event, WarningRaised):
            self.warnings.append(event.message)


def draft(run: Any) -> Path:
    """A result as it should be."""
    folder: Path = run.clean_folder()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(run.model.folder / name, folder / name)
    copy_tokenizer(run.model.folder, folder)
    return folder


def good_result(verb: str, run: Any) -> Any:
    if verb == "serve":
        return SimpleNamespace(url="http://127.0.0.1:1", wait=print, stop=print)
    return {"train.x.lr": 0.2} if verb == "tune" else StagedArtifact(draft(run))


def raises(error: BaseException) -> Act:
    def act(run: Any) -> Any:
        raise error

    return act

"""The Python object: train, tune, compress, serve and predict, on the same store as the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact, is_artifact, load_artifact
from fastserve_core.artifacts.files import copy_tree
from fastserve_core.artifacts.store import Store
from fastserve_core.config.groups import config_dir, default_choice, find_config, group_choices
from fastserve_core.config.nodes import DataOptions, GateOptions, ModelSpec
from fastserve_core.config.options import parse_options
from fastserve_core.data.dataset import Dataset
from fastserve_core.data.prepare import prepare_rows
from fastserve_core.errors import ArtifactError, OptionError, PlanError, UnknownNameError, did_you_mean
from fastserve_core.events import Event, Notice, WarningRaised
from fastserve_core.export.export import VERIFICATION_ROWS, Export, export_artifact
from fastserve_core.inference.predictor import Predictor
from fastserve_core.models.resolve import resolve_model
from fastserve_core.pipeline.execute import check_estimates, warn_of_unknown_words
from fastserve_core.pipeline.executed_stages import ExecutedStages
from fastserve_core.pipeline.record import RunRecord, StageRecord
from fastserve_core.pipeline.session import Session
from fastserve_core.pipeline.settings import RunOptions, Settings
from fastserve_core.plugins.registry import Registry
from fastserve_core.plugins.requests import RunningServer
from fastserve_core.processes.environment import set_library_environment
from fastserve_core.serving.file_prediction import FilePrediction, predict_file
from fastserve_core.serving.frame_prediction import predict_frame
from fastserve_core.serving.serve import start_server
from fastserve_core.serving.windows import WINDOW_ROWS, stream_answers
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.inputs import check_list
from fastserve_core.tasks.load import load_task, task_option_names

DEFAULT_PLUGINS = {"train": "torch_ddp", "tune": "nevergrad", "compress": ("neural_compressor",), "serve": "server"}
GENERAL_OPTIONS = ("task", "seed", "home", "gate", "engine")
MODEL_DIMENSIONS = tuple(
    one.name for one in fields(ModelSpec) if one.name not in ("kind", "name", "path", "folder", "pin")
)


@dataclass(frozen=True)
class Result:
    """The result of a verb: the artifact's folder and measures, and the status.

    ``status`` is ``done``, ``reused`` (from the store), or ``rejected`` (by the gate, with the reason).
    """

    artifact: Path
    measures: Mapping[str, Any]
    status: str
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


class FastServe:
    """A model on its way from a checkpoint to an endpoint.

    ``config`` has ``model`` (a name in ``conf/model/``, a checkpoint's folder, or a hub id), the
    dimensions of a model from scratch (``dim``, ``num_heads``, ``num_layers``, ``hidden_size`` …),
    ``num_labels``, ``task`` and the task's options (``max_length`` …), ``seed``, ``home`` (the store), ``gate`` (its
    bounds) and ``engine``.
    ``plugins`` replaces the plugin of a stage. ``show`` prints progress.
    """

    def __init__(self, config: Mapping[str, Any], plugins: Mapping[str, Any] | None = None, show: bool = True) -> None:
        task = str(config.get("task") or default_choice("task"))
        own_options = task_option_names(task)
        known = ("model", *GENERAL_OPTIONS, *MODEL_DIMENSIONS, *own_options)
        strangers = [name for name in config if name not in known]
        if strangers:
            raise OptionError(f"FastServe has no option '{strangers[0]}'{did_you_mean(strangers[0], known)}")
        self.plugins = DEFAULT_PLUGINS | dict(plugins or {})
        self.show = show
        self._spec = model_spec(config)
        self._task = load_task(task, {name: config[name] for name in own_options if name in config})
        gate = parse_options(GateOptions, config.get("gate"), "gate")
        own = {name: config[name] for name in ("home", "engine") if name in config}
        self._general = RunOptions(seed=int(config.get("seed", 0)), gate=gate, **own)
        self._splits: dict[str, list[Row]] = {}
        self._model: Artifact | None = None
        self._trainable: Artifact | None = None
        self._found: dict[str, Any] = {}
        self._train_options: dict[str, Any] = {}
        self._predictor: Predictor | None = None
        set_library_environment(offline=self._spec.kind != "hub")

    @classmethod
    def load(cls, artifact: str | Path, plugins: Mapping[str, Any] | None = None, show: bool = True) -> FastServe:
        """The object around a finished artifact: it predicts, serves, and trains further."""
        found = load_artifact(Path(artifact).resolve(), verify=True)
        config = {"model": str(artifact), "task": found.manifest.task, **found.manifest.task_options}
        made = cls(config, plugins, show)
        made._load_predictor(found)
        return made

    # -- the verbs -----------------------------------------------------------------------------------

    def train(
        self,
        train_data: Sequence[Any],
        train_labels: Sequence[Any] | None = None,
        dev_data: Sequence[Any] | None = None,
        dev_labels: Sequence[Any] | None = None,
        test_data: Sequence[Any] | None = None,
        test_labels: Sequence[Any] | None = None,
        **options: Any,
    ) -> Result:
        """Train on inputs and targets, or on rows; splits that are not given are cut from train.

        The task defines the inputs and targets, such as texts, pairs or word lists with a label each. Without targets,
        each element is a row: a mapping of the task's columns. ``options`` are the trainer's (``epochs``,
        ``batch_size``, ``lr`` …).
        """
        given = {"train": (train_data, train_labels), "validation": (dev_data, dev_labels),
                 "test": (test_data, test_labels)}  # fmt: skip
        self._splits = {
            split: self._rows(split, data, labels) for split, (data, labels) in given.items() if data is not None
        }
        self._train_options = options
        return self._train(self._found)

    def tune(
        self,
        dev_data: Sequence[Any] | None = None,
        dev_labels: Sequence[Any] | None = None,
        steps: int | None = None,
        patience: int | None = None,
        **options: Any,
    ) -> Result:
        """Search the training options on the data given to ``train``, scored on ``dev_data``.

        ``steps`` bounds the training steps of all trials together, ``patience`` the trials without gain.
        The model is then trained with the best options, and the better of the two models is kept.
        """
        if "train" not in self._splits:
            raise PlanError("tune needs training data: call train first")
        if dev_data is not None:
            self._splits["validation"] = self._rows("validation", dev_data, dev_labels)
        options |= {name: value for name, value in (("steps", steps), ("patience", patience)) if value is not None}
        settings = self._settings({"tune": options, "train": self._train_options})
        stages = self._stages(settings)
        self._found = dict(stages.tune() or {})
        before = self._model
        result = self._train(self._found)
        if before is not None and self._model is not None and self._objective(before) > self._objective(self._model):
            self._load_predictor(before)
            return Result(before.folder, before.measures, result.status, self._found, "the options before were better")
        return Result(result.artifact, result.measures, result.status, self._found)

    def compress(self, model: str | None = None, filename: str | Path | None = None, **options: Any) -> Result:
        """Compress the last trainable model and copy the best that the gate lets through to ``filename``.

        ``model`` is the name this object was made with, or an artifact's folder. ``options`` are the
        compressors' own, for one compressor by name, for several as ``{compressor: {option: value}}``.
        """
        if not self._splits:
            raise PlanError("compress needs data to calibrate and to measure with: call train first")
        names = [self.plugins["compress"]] if isinstance(self.plugins["compress"], str) else self.plugins["compress"]
        chosen = {name: options.get(name, {}) if len(names) > 1 else options for name in names}
        target = _export_target(filename)
        start = self._trainable if model is None or str(model) == self._spec.name else None
        settings = self._settings({"train": self._train_options}, chosen)  # a compressor may have the trainer train
        stages = self._stages(settings, start or self._split_options(model))
        stages.compress()
        self._load_predictor(stages.artifact)
        line = stages.session.record.stages[-1]
        return self._export_if_stale(line, target)

    def serve(self, model: str | Path | None = None, port: int = 8888, **options: Any) -> RunningServer:
        """Start the server in the background; the handle has ``url`` and ``stop()`` and is a context manager."""
        return start_server(self._split_options(model), self.plugins["serve"], {"port": port, **options})

    def export(self, folder: str | Path, to: str = "onnx", check: int = VERIFICATION_ROWS) -> Export:
        """Write the current model for another runtime into a folder, and compare it on ``check`` inputs.

        ``to`` is ``onnx``, ``onnx_int8``, ``openvino``, ``torch_export``, ``litert``, or a format of an installed
        package. Raises ``ExportError`` where the model does not go through or answers otherwise.
        """
        return export_artifact(self._split_options(None), Path(folder), to, check)

    def predict(self, data: Sequence[Any], **parameters: Any) -> list[dict[str, Any]]:
        """The answers to texts (pairs, word lists), as ``POST /predict`` gives them; one text is one input.

        ``parameters`` are those of the task's requests, such as ``top_k``.
        """
        return self._open_predictor().predict(data, parameters=parameters)

    def predict_stream(self, data: Iterable[Any], window: int = WINDOW_ROWS) -> Iterator[dict[str, Any]]:
        """Yield the answers to inputs of any number, in their order and in constant memory.

        ``window`` inputs are read before their answers are yielded: more is faster, 1 answers each input at once. The
        answer to an input that cannot be used is ``{"error": reason}``.
        """
        if window < 1:
            raise OptionError(f"window must be at least 1, not {window}")
        return stream_answers(self._open_predictor(), data, window)

    def predict_file(self, data: Any, output: str | Path, **options: Any) -> FilePrediction:
        """Write the rows of files with their answers to a file, and return the counts; a killed call resumes.

        ``data`` is a path, a pattern, a folder, or a list of them; the suffix of ``output`` is its format. ``options``
        are those of reading files (``encoding``, ``separator``, ``columns={"text": "review"}`` …).
        """
        given = [str(path) for path in data] if isinstance(data, (list, tuple)) else str(data)
        return predict_file(
            self._open_predictor(), given, Path(output), parse_options(DataOptions, options, "data"), self._show
        )

    def predict_frame(self, data: Any, **options: Any) -> Any:
        """The DataFrame of pandas with the columns of the answers beside its own, and the same index.

        ``options`` has the names of columns (``columns={"text": "review"}``). A row that cannot be used has the reason
        in the column ``error``.
        """
        return predict_frame(self._open_predictor(), data, parse_options(DataOptions, options, "data"), self._show)

    # -- what the verbs share ------------------------------------------------------------------------

    def _rows(self, split: str, data: Sequence[Any], labels: Sequence[Any] | None) -> list[Row]:
        check_list(f"the data for {split}", data)
        check_list(f"the labels for {split}", labels)
        return self._task.make_rows(data, labels)

    def _train(self, found: Mapping[str, Any]) -> Result:
        stages = self._stages(self._settings({"train": self._train_options}))
        warn_of_unknown_words(stages.session, stages.artifact)
        check_estimates(stages.session, stages.artifact)
        overrides = self._user_overrides()
        stages.train({path: value for path, value in found.items() if path not in overrides})
        self._load_predictor(stages.artifact)
        return self._export_if_stale(stages.session.record.stages[-1], None)

    def _settings(
        self, options: Mapping[str, Mapping[str, Any]], compressors: Mapping[str, Any] | None = None
    ) -> Settings:
        registry = Registry()
        if self.show:
            registry.activate("observe", "progress", None)
        for stage, given in options.items():
            registry.activate(stage, self.plugins[stage], given)
        for name, given in (compressors or {}).items():
            registry.activate("compress", name, given)
        return Settings(self._general, self._spec, DataOptions(), self._task, registry, self._user_overrides())

    def _user_overrides(self) -> frozenset[str]:
        return frozenset(f"train.{self.plugins['train']}.{name}" for name in self._train_options)

    def _stages(self, settings: Settings, model: Artifact | None = None) -> ExecutedStages:
        store = Store(settings.home)
        data: Dataset = prepare_rows(self._splits, settings.data, self._task, store, self._report)
        first = model or resolve_model(self._spec, self._task, data, store, self._general.seed)
        record = RunRecord.of(self._task, self._general.seed)
        return ExecutedStages(Session(settings, store, data, record), first)

    def _open_predictor(self) -> Predictor:
        artifact = self._split_options(None)
        if self._predictor is None or self._predictor.artifact.folder != artifact.folder:
            self._predictor = Predictor(artifact)
        return self._predictor

    def _show(self, event: Event) -> None:
        """Print notices and warnings of predictions."""
        if isinstance(event, (Notice, WarningRaised)):
            self._report(event.message)

    def _report(self, note: str) -> None:
        """Print the guesses about the data."""
        if self.show:
            print(note, file=sys.stderr)

    def _split_options(self, model: str | Path | None) -> Artifact:
        if model is not None and is_artifact(Path(model)):
            return load_artifact(Path(model).resolve(), verify=True)
        if model is not None and str(model) != self._spec.name:
            raise ArtifactError(
                f"'{model}' is neither an artifact's folder nor this object's model ('{self._spec.name}')"
            )
        if self._model is None:
            raise PlanError("there is no trained model yet: call train, or FastServe.load(artifact)")
        return self._model

    def _objective(self, artifact: Artifact) -> float:
        return self._task.objective(artifact.measures["quality_validation"])

    def _load_predictor(self, artifact: Artifact) -> None:
        self._model = artifact
        if artifact.form == TRAINABLE:
            self._trainable = artifact
        if self._predictor is not None:
            self._predictor.close()
            self._predictor = None

    def _export_if_stale(self, line: StageRecord, target: Path | None) -> Result:
        artifact = self._split_options(None)
        if target is not None:
            copy_tree(artifact.folder, target)
            artifact = load_artifact(target, verify=True)
            self._load_predictor(artifact)
        return Result(artifact.folder, artifact.measures, line.status, line.options, line.reason)


def _export_target(filename: str | Path | None) -> Path | None:
    """Where to copy an artifact to; only an older artifact is replaced."""
    target = Path(filename).absolute() if filename is not None else None
    if target is not None and target.exists() and not is_artifact(target):
        raise ArtifactError(f"{target} exists and is not an artifact: it is not replaced")
    return target


def model_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The model that a config names, with its dimensions replaced where the config gives some."""
    name = str(config.get("model", "minilm"))
    own = {key: config[key] for key in MODEL_DIMENSIONS if key in config}
    if (path := find_config("model", name)) is not None:
        values: dict[str, Any] = {}
        for one in dict.fromkeys((config_dir() / "model" / "checkpoint.yaml", path)):
            values |= OmegaConf.to_container(OmegaConf.load(one))  # type: ignore[arg-type]
        values.pop("defaults", None)
        return parse_options(ModelSpec, values | own, "model")
    if Path(name).is_dir():
        return parse_options(ModelSpec, {"kind": "checkpoint", "name": Path(name).name, "path": name, **own}, "model")
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return parse_options(ModelSpec, {"kind": "hub", "name": name, **own}, "model")
    raise UnknownNameError("model", name, group_choices("model"), advice=", or a checkpoint's folder")

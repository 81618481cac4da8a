"""Executes a composed config: checks, data, plan, stages, record, server."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact
from fastserve_core.artifacts.files import write_text
from fastserve_core.artifacts.store import Store
from fastserve_core.data.prepare import prepare_dataset
from fastserve_core.errors import FastServeError, ModelError, PlanError, wrap_write_errors
from fastserve_core.evaluation.doubts import read_doubted
from fastserve_core.evaluation.samples import read_samples
from fastserve_core.events import Event, Preflight, RunFinished, RunPlanned, Step
from fastserve_core.models.resolve import resolve_model
from fastserve_core.pipeline.context import make_serve_context
from fastserve_core.pipeline.executed_stages import ExecutedStages
from fastserve_core.pipeline.plan import TO_DO, plan_run
from fastserve_core.pipeline.record import RunRecord
from fastserve_core.pipeline.run_lock import hold_run
from fastserve_core.pipeline.session import Session
from fastserve_core.pipeline.settings import Settings, read_settings
from fastserve_core.pipeline.time_limit import estimate_training, fit_to_time
from fastserve_core.plugins.hookspecs import hookimpl
from fastserve_core.serving.serve import serve_until_signal

log = logging.getLogger("fastserve")

DISK_SPACE_FACTOR = 4
"""Free disk space that a run needs, as a multiple of the model's size.

A run stores the weights, two checkpoints with the optimizer's state, and the compressed models.
"""


SAMPLE_ROWS = 300
"""Rows whose words are looked up in the tokenizer."""
MAX_UNKNOWN_SHARE = 0.03
"""The share of unknown tokens from which a run warns."""


class LogObserver:
    """Writes events to the run's ``fastserve.log``."""

    @hookimpl
    def observe(self, event: Event) -> None:
        """Log an event; training steps at the level DEBUG."""
        log.log(logging.DEBUG if isinstance(event, Step) else logging.INFO, "%s", event)


def execute(cfg: DictConfig, folder: Path, user_overrides: frozenset[str] = frozenset()) -> RunRecord:
    """Execute a run, and serve its model if a server is chosen.

    Args:
        cfg: The composed config.
        folder: The run's folder; ``config.yaml`` and ``run.json`` are written into it.
        user_overrides: Paths of the options that the user set.

    Returns:
        The run's record.

    Raises:
        FastServeError: The config is wrong or a stage failed. The record of a failed run holds the error and the
            stages that were finished.
    """
    settings = read_settings(cfg, user_overrides)
    settings.registry.add_observer(LogObserver())
    if not any(settings.registry.plugins_for(stage) for stage in ("tune", "train", "compress", "serve")):
        raise PlanError("no stage is chosen: add plugins, e.g. '+plugin=[torch_ddp,neural_compressor]'")
    with wrap_write_errors("the run's folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    record = RunRecord.of(settings.task, settings.general.seed, folder, shlex.join(sys.argv[1:]))
    try:
        with hold_run(folder):
            write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg))
            stages = _prepare_stages(settings, record)
            stages.run()
    except BaseException as error:
        record.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        record.error = str(error)
        if not isinstance(error, FastServeError) or error.exit_code != 2 or record.stages:
            record.write()
        raise
    if stages.session.data is not None:
        rows = stages.artifact.measures.get("doubted_rows", ())
        record.doubted_rows = read_doubted(rows, stages.session.data, settings.task)
        record.samples = read_samples(record.stages)
    record.status = "done"
    record.write()
    settings.registry.notify(RunFinished(folder, record.as_json()))
    _serve(stages.session, stages.artifact, folder)
    return record


def _prepare_stages(settings: Settings, record: RunRecord) -> ExecutedStages:
    """Load the data and the model, and check disk and memory before the first stage."""
    store = Store(settings.home)
    data = None
    if settings.needs_data:
        data = prepare_dataset(settings.data, settings.task, store, lambda text: print(text, file=sys.stderr))
        record.describe_data(data)
    model = resolve_model(settings.model, settings.task, data, store, settings.general.seed)
    _check_model(settings, model)
    session = fit_to_time(Session(settings, store, data, record), model)
    plan = plan_run(session, model)
    session.emit(RunPlanned(tuple(plan)))
    if any(state == TO_DO for *_, state in plan):
        store.check_space(DISK_SPACE_FACTOR * _folder_size(model.folder))
        warn_of_unknown_words(session, model)
    if any(stage in ("tune", "train") and state == TO_DO for stage, _, state in plan):
        check_estimates(session, model)
    return ExecutedStages(session, model)


def _check_model(settings: Settings, model: Artifact) -> None:
    """Check that the chosen stages can start from the model."""
    if settings.needs_data and model.form != TRAINABLE:
        raise ModelError(
            f"{model.folder} holds files for the engine {model.engine}, which cannot be trained or compressed further: "
            "start from the model that it was made from (see its lineage)"
        )


def warn_of_unknown_words(session: Session, model: Artifact) -> None:
    """Warn if the model's tokenizer does not know many of the words of the data."""
    if session.data is None:
        return
    rows = session.data.rows("train")[:SAMPLE_ROWS]
    share = session.settings.task.unknown_share(model.folder, rows)
    if share > MAX_UNKNOWN_SHARE:
        session.warn(
            f"the tokenizer of {model.folder} does not know {share:.0%} of the tokens of the training texts, which the "
            "model cannot distinguish: is it a model for their language?"
        )


def check_estimates(session: Session, model: Artifact) -> None:
    """Report the estimated cost of the training.

    Raises:
        ModelError: The training is not expected to fit into memory.
    """
    estimate = estimate_training(session, model)
    if estimate is not None:
        session.emit(estimate)
        _check_memory(estimate, session.settings)


def _check_memory(estimate: Preflight, settings: Settings) -> None:
    if settings.general.preflight.enforce and estimate.memory_bytes > estimate.available_bytes:
        raise ModelError(
            f"training is expected to need {estimate.memory_bytes / 1e9:.1f} GB of memory, but this machine has "
            f"{estimate.available_bytes / 1e9:.1f} GB available: use a smaller batch or model, "
            "or set preflight.enforce=false to try"
        )


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())


def _serve(session: Session, model: Artifact, folder: Path) -> None:
    """Serve the model until a signal, if a server is chosen."""
    server = session.registry.server
    if server is None:
        return
    work = folder / "serve"
    work.mkdir(exist_ok=True)
    context = make_serve_context(session, work, model)
    serve_until_signal(session.call_plugin(server, "serve", context), model.folder)
    shutil.rmtree(work, ignore_errors=True)

"""What is kept of a training: checkpoints to go on from, the best weights, and the draft made of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastserve_core.artifacts import copy_tokenizer
from fastserve_core.tasks import Task
from fastserve_torch_ddp.build import build, stored_formats
from fastserve_torch_ddp.checkpointing import checkpoint
from fastserve_torch_ddp.checkpointing.validation import TrainState
from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.job import TrainingJob, own_device, writes
from fastserve_torch_ddp.optim.ema import ExponentialMovingAverage
from fastserve_torch_ddp.peft_methods.adapters import FinetuningMethod
from fastserve_torch_ddp.strategies.parallel import ParallelStrategy

METHOD, LESSON, AVERAGES = "method.", "lesson.", "averages"
CPU = torch.device("cpu")


class CheckpointManager:
    """One machine's files of a training; every rank calls the same functions, and one of them writes.

    What a checkpoint holds: weights and moments in fp32, averages, the method's and the lesson's own state, the step,
    the best scores and how long they have stood. Random numbers and the order of the data follow from seed and step.
    """

    def __init__(
        self,
        job: TrainingJob,
        way: ParallelStrategy,
        method: FinetuningMethod,
        averages: ExponentialMovingAverage | None,
        lesson: Mapping[str, Tensor],
        warn: Callable[[str], None],
    ) -> None:
        self.job, self.way, self.method, self.averages, self.lesson, self.warn = (
            job,
            way,
            method,
            averages,
            lesson,
            warn,
        )
        self.folder = Path(job.folder)
        self.keeper = checkpoint.CheckpointWriter(self.folder, warn)
        self.saved = time.monotonic()
        self.seconds = 0.0
        """How long training was held up."""

    def resume(self) -> TrainState:
        """Go on from the newest checkpoint that any machine has, which the others are sent; else from the start."""
        found = checkpoint.newest(self.folder, self.warn) if writes() else None
        source = collectives.argmax_rank(found[1]["step"] if found is not None else -1)
        tensors, progress = collectives.broadcast_tensors(found, own_device(), source)
        if tensors is None:
            return TrainState()
        self._send_best(source)
        if self.averages is not None:
            average = self.way.optimizer.flat.shard(tensors.pop(AVERAGES))
            self.averages.load_state_dict({AVERAGES: average})
        for name, own in self.lesson.items():
            own.copy_(tensors.pop(LESSON + name)[collectives.ranks()[0]])
        names = [name for name in tensors if name.startswith(METHOD)]
        self.method.load_state_dict({name.removeprefix(METHOD): tensors.pop(name) for name in names})
        self.way.optimizer.load(tensors)
        return TrainState(**progress)

    def checkpoint_if_due(self, progress: TrainState) -> None:
        """Ranks have to agree on the moment, as each holds a part of what is kept."""
        due = time.monotonic() - self.saved >= self.job.options["checkpoint_every_s"]
        if collectives.broadcast_flag(due):
            self.checkpoint(progress)

    def checkpoint(self, progress: TrainState) -> None:
        """Keep what is needed to go on from here; to be called on every rank."""
        begun = time.monotonic()
        tensors = self.way.optimizer.tensors()
        tensors |= {METHOD + name: one.clone() for name, one in self.method.state_dict().items()}
        tensors |= {LESSON + name: collectives.stack(one) for name, one in self.lesson.items()}
        if self.averages is not None:
            tensors[AVERAGES] = self.way.optimizer.flat.whole(self.averages.state_dict()[AVERAGES])
        if writes():
            self.keeper.checkpoint(tensors, vars(progress))
        self.saved = time.monotonic()
        self.seconds += self.saved - begun

    def save_best(self, progress: TrainState) -> None:
        """Keep the weights of this moment as the best so far."""
        begun = time.monotonic()
        weights = self.way.optimizer.weights()
        if writes():
            self.keeper.best(weights, vars(progress))
        self.seconds += time.monotonic() - begun

    def _send_best(self, source: int) -> None:
        """A machine that was away has no best weights, or older ones."""
        path = self.folder / checkpoint.BEST
        sends = collectives.ranks()[0] == source
        best, about = collectives.broadcast_tensors(
            checkpoint.read(path) if sends and path.is_file() else None, CPU, source
        )
        if best is not None and writes() and not sends:
            checkpoint.write(path, best, about)

    def write_draft(self, task: Task, total: int) -> None:
        """The best weights as a Hugging Face folder, with the tokenizer the model came with.

        To be called when there is no process group any more: inside one, transformers saves on rank 0 only.
        """
        self.keeper.wait()
        if not writes():
            return
        tensors, _ = checkpoint.read(self.folder / checkpoint.BEST)
        method = build(self.job, task, CPU, total)
        checkpoint.restore(method.model, tensors)
        draft = self.folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        merged, formats = method.merge(), stored_formats(self.job, task)
        for name, one in merged.named_parameters():
            one.data = one.data.to(formats.get(name, one.dtype))
        merged.save_pretrained(draft)  # type: ignore[operator]
        copy_tokenizer(Path(self.job.model), draft)

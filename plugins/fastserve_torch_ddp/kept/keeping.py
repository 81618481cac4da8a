"""What is kept of a training: checkpoints to go on from, the best weights, and the draft made of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastserve_core.artifacts.files import copy_tokenizer
from fastserve_core.tasks.task import Task
from fastserve_torch_ddp.assembly import build, stored_formats
from fastserve_torch_ddp.job import Job, own_device, writes
from fastserve_torch_ddp.kept import checkpoint
from fastserve_torch_ddp.kept.validation import Progress
from fastserve_torch_ddp.methods.adapters import Method
from fastserve_torch_ddp.ranks import exchange
from fastserve_torch_ddp.ranks.ways import Together
from fastserve_torch_ddp.steps.averages import Averages

METHOD, LESSON, AVERAGES = "method.", "lesson.", "averages"
CPU = torch.device("cpu")


class Keeping:
    """One machine's files of a training; every rank calls the same functions, and one of them writes.

    What a checkpoint holds: weights and moments in fp32, averages, the method's and the lesson's own state, the step,
    the best scores and how long they have stood. Random numbers and the order of the data follow from seed and step.
    """

    def __init__(
        self,
        job: Job,
        way: Together,
        method: Method,
        averages: Averages | None,
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
        self.keeper = checkpoint.Keeper(self.folder, warn)
        self.saved = time.monotonic()
        self.seconds = 0.0
        """How long training was held up."""

    def resume(self) -> Progress:
        """Go on from the newest checkpoint that any machine has, which the others are sent; else from the start."""
        found = checkpoint.newest(self.folder, self.warn) if writes() else None
        source = exchange.first_of_most(found[1]["step"] if found is not None else -1)
        tensors, progress = exchange.send_all(found, own_device(), source)
        if tensors is None:
            return Progress()
        self._send_best(source)
        if self.averages is not None:
            average = self.way.optimizer.flat.shard(tensors.pop(AVERAGES))
            self.averages.load_state_dict({AVERAGES: average})
        for name, own in self.lesson.items():
            own.copy_(tensors.pop(LESSON + name)[exchange.ranks()[0]])
        names = [name for name in tensors if name.startswith(METHOD)]
        self.method.load_state_dict({name.removeprefix(METHOD): tensors.pop(name) for name in names})
        self.way.optimizer.load(tensors)
        return Progress(**progress)

    def checkpoint_if_due(self, progress: Progress) -> None:
        """Ranks have to agree on the moment, as each holds a part of what is kept."""
        due = time.monotonic() - self.saved >= self.job.options["checkpoint_every_s"]
        if exchange.agree(due):
            self.checkpoint(progress)

    def checkpoint(self, progress: Progress) -> None:
        """Keep what is needed to go on from here; to be called on every rank."""
        begun = time.monotonic()
        tensors = self.way.optimizer.tensors()
        tensors |= {METHOD + name: one.clone() for name, one in self.method.state_dict().items()}
        tensors |= {LESSON + name: exchange.stack(one) for name, one in self.lesson.items()}
        if self.averages is not None:
            tensors[AVERAGES] = self.way.optimizer.flat.whole(self.averages.state_dict()[AVERAGES])
        if writes():
            self.keeper.checkpoint(tensors, vars(progress))
        self.saved = time.monotonic()
        self.seconds += self.saved - begun

    def best(self, progress: Progress) -> None:
        """Keep the weights of this moment as the best so far."""
        begun = time.monotonic()
        weights = self.way.optimizer.weights()
        if writes():
            self.keeper.best(weights, vars(progress))
        self.seconds += time.monotonic() - begun

    def _send_best(self, source: int) -> None:
        """A machine that was away has no best weights, or older ones."""
        path = self.folder / checkpoint.BEST
        sends = exchange.ranks()[0] == source
        best, about = exchange.send_all(checkpoint.read(path) if sends and path.is_file() else None, CPU, source)
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

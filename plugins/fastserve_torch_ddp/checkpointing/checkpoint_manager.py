"""The files of a training: checkpoints to resume from, the best weights, and the draft made of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastserve_core.artifacts import ADAPTER_FOLDER, copy_tokenizer
from fastserve_core.tasks import Task
from fastserve_torch_ddp.build import build_method, read_stored_dtypes
from fastserve_torch_ddp.checkpointing import checkpoint
from fastserve_torch_ddp.checkpointing.validation import TrainState
from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.job import TrainingJob, is_local_main, local_device
from fastserve_torch_ddp.optim.ema import ExponentialMovingAverage
from fastserve_torch_ddp.peft_methods.adapters import FinetuningMethod
from fastserve_torch_ddp.strategies.parallel import ParallelStrategy

METHOD_PREFIX, AUXILIARY_PREFIX, EMA_KEY = "method.", "auxiliary.", "ema"
CPU = torch.device("cpu")


class CheckpointManager:
    """Saves and restores a training; every rank calls the same methods, and one rank of each machine writes.

    A checkpoint contains weights and moments in fp32, the moving average, the state of the fine-tuning method and of
    the auxiliary loss, the step, and the state of early stopping. Random numbers and the order of the data follow
    from the seed and the step.

    Args:
        job: The training job.
        strategy: The parallel strategy with its optimizer.
        method: The fine-tuning method.
        ema: The moving average of the weights, or ``None``.
        auxiliary_state: The tensors of the auxiliary loss, restored in place.
        warn: Receives warnings.

    Attributes:
        seconds: How long the methods have blocked the training loop.
    """

    def __init__(
        self,
        job: TrainingJob,
        strategy: ParallelStrategy,
        method: FinetuningMethod,
        ema: ExponentialMovingAverage | None,
        auxiliary_state: Mapping[str, Tensor],
        warn: Callable[[str], None],
    ) -> None:
        self.job, self.strategy, self.method, self.ema = job, strategy, method, ema
        self.auxiliary_state, self.warn = auxiliary_state, warn
        self.folder = Path(job.folder)
        self.writer = checkpoint.CheckpointWriter(self.folder, warn)
        self.last_saved = time.monotonic()
        self.seconds = 0.0

    def resume(self) -> TrainState:
        """Restore the newest checkpoint of any machine on every rank, and return its progress."""
        newest = checkpoint.read_newest(self.folder, self.warn) if is_local_main() else None
        source = collectives.argmax_rank(newest[1]["step"] if newest is not None else -1)
        tensors, progress = collectives.broadcast_tensors(newest, local_device(), source)
        if tensors is None:
            return TrainState()
        self._send_best(source)
        if self.ema is not None:
            average = self.strategy.optimizer.flat.shard(tensors.pop(EMA_KEY))
            self.ema.load_state_dict({EMA_KEY: average})
        for name, state in self.auxiliary_state.items():
            state.copy_(tensors.pop(AUXILIARY_PREFIX + name)[collectives.get_rank()])
        names = [name for name in tensors if name.startswith(METHOD_PREFIX)]
        self.method.load_state_dict({name.removeprefix(METHOD_PREFIX): tensors.pop(name) for name in names})
        self.strategy.optimizer.load_state_dict(tensors)
        return TrainState(**progress)

    def checkpoint_if_due(self, progress: TrainState) -> None:
        """Save a checkpoint if the last one is older than ``checkpoint_every_s``.

        Rank 0 decides for all ranks, because each holds a part of the state.
        """
        is_due = time.monotonic() - self.last_saved >= self.job.options["checkpoint_every_s"]
        if collectives.broadcast_flag(is_due):
            self.checkpoint(progress)

    def checkpoint(self, progress: TrainState) -> None:
        """Save a checkpoint; every rank must call it."""
        begin = time.monotonic()
        tensors = self.strategy.optimizer.state_dict()
        tensors |= {METHOD_PREFIX + name: value.clone() for name, value in self.method.state_dict().items()}
        tensors |= {
            AUXILIARY_PREFIX + name: collectives.all_gather_stacked(value)
            for name, value in self.auxiliary_state.items()
        }
        if self.ema is not None:
            tensors[EMA_KEY] = self.strategy.optimizer.flat.gather(self.ema.state_dict()[EMA_KEY])
        if is_local_main():
            self.writer.write_checkpoint(tensors, vars(progress))
        self.last_saved = time.monotonic()
        self.seconds += self.last_saved - begin

    def save_best(self, progress: TrainState) -> None:
        """Save the current weights as the best so far; every rank must call it."""
        begin = time.monotonic()
        weights = self.strategy.optimizer.gather_weights()
        if is_local_main():
            self.writer.write_best(weights, vars(progress))
        self.seconds += time.monotonic() - begin

    def _send_best(self, source: int) -> None:
        """Send the best weights to all machines: one that was lost has none, or older ones."""
        if collectives.get_world_size() == 1:
            return
        path = self.folder / checkpoint.BEST
        is_source = collectives.get_rank() == source
        best, metadata = collectives.broadcast_tensors(
            checkpoint.read_tensors(path) if is_source and path.is_file() else None, CPU, source
        )
        if best is not None and is_local_main() and not is_source:
            checkpoint.write_tensors(path, best, metadata)

    def write_draft(self, task: Task, total: int) -> None:
        """Write the best weights as a Hugging Face folder, with the tokenizer of the original model.

        Low-rank adapters are merged into the weights, and written beside them.

        Call it after the process group is destroyed: inside one, transformers saves on rank 0 only.

        Args:
            task: The task, which builds the model.
            total: The number of optimizer steps.

        Raises:
            StoreError: The best weights cannot be written.
            CheckpointError: They were damaged since.
        """
        if not is_local_main():
            return
        self.writer.finish()
        tensors, _ = checkpoint.read_tensors(self.folder / checkpoint.BEST)
        method = build_method(self.job, task, CPU, total)
        checkpoint.copy_weights(method.model, tensors)
        draft = self.folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        method.write_adapter(draft / ADAPTER_FOLDER, Path(self.job.model))
        merged, dtypes = task.finish(method.merge()), read_stored_dtypes(self.job, task)
        for name, parameter in merged.named_parameters():
            parameter.data = parameter.data.to(dtypes.get(name, parameter.dtype))
        merged.save_pretrained(draft)  # type: ignore[operator]
        copy_tokenizer(Path(self.job.model), draft)
        task.write_files(draft)

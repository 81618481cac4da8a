"""The training loop of one rank: steps, evaluations and events."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastserve_core.data import load_dataset
from fastserve_core.errors import StageError, TransientError
from fastserve_core.events import Event, Metric, Notice, Step, WarningRaised
from fastserve_core.processes import event_writer
from fastserve_core.tasks import Encoded, load_task
from fastserve_torch_ddp.build import BatchCollator, build_method, build_strategy
from fastserve_torch_ddp.checkpointing.checkpoint import list_checkpoints
from fastserve_torch_ddp.checkpointing.checkpoint_manager import EMA_KEY, CheckpointManager
from fastserve_torch_ddp.checkpointing.validation import collect_statistics, evaluate
from fastserve_torch_ddp.data.batches import BatchSchedule, Indices, shard
from fastserve_torch_ddp.data.tokens import TokenDataset
from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.job import TrainingJob, is_local_main, local_device
from fastserve_torch_ddp.ops.precision import choose_precision
from fastserve_torch_ddp.optim.auxiliary_loss import load_auxiliary_loss
from fastserve_torch_ddp.optim.ema import ExponentialMovingAverage
from fastserve_torch_ddp.optim.losses import make_loss_options
from fastserve_torch_ddp.optim.schedules import lr_factor

KIBIBYTE = 1024
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "bad allocation", "could not create a primitive")
"""Messages of the errors that torch raises if an allocation fails."""


class Trainer:
    """Trains the replica or shard of one rank.

    Args:
        job: The training job.

    Raises:
        UserError: The options do not fit the model, the task or the data.
    """

    def __init__(self, job: TrainingJob) -> None:
        self.job, self.options, self.device = job, job.options, local_device()
        self.rank, self.world = collectives.get_rank(), collectives.get_world_size()
        self.write_event = event_writer(job.events)
        self.task = load_task(*job.task)
        encode, rows = self.task.encoder(Path(job.model)), TokenDataset(Path(job.tokens))
        self.schedule = BatchSchedule(rows, self.task, self.options, job.seed, job.steps)
        self.validation = self.task.examples(encode(load_dataset(Path(job.data)).rows("validation")), "validation")
        self.task.fit_targets(row.target for row in rows)
        self.method = build_method(job, self.task, self.device, self.schedule.total, rows)
        if self.task.head_report:
            self.emit(Notice(self.task.head_report))
        model = self.method.model
        self.collate = BatchCollator(self.task, model, self.device)
        self.loss_options = make_loss_options(self.options, self.task, (row.target for row in rows))
        self.precision = choose_precision(self.options, self.device)
        self.auxiliary_loss = load_auxiliary_loss(job, self.task, model, self.precision, self.device)
        self.strategy = build_strategy(model, self.options, self.precision, job.seed, self.device)
        self.ema = self._create_ema()
        self.auxiliary_state: Mapping[str, Tensor] = getattr(self.auxiliary_loss, "state", {})
        self.checkpoints = CheckpointManager(
            job, self.strategy, self.method, self.ema, self.auxiliary_state,
            lambda text: self.emit(WarningRaised(text)),
        )  # fmt: skip
        self.samples = self.tokens = 0

    def _create_ema(self) -> ExponentialMovingAverage | None:
        if (decay := self.options["ema_decay"]) is None:
            return None
        return ExponentialMovingAverage({EMA_KEY: self.strategy.optimizer.flat.master}, float(decay))

    def emit(self, event: Event) -> None:
        """Write an event, on one rank of each machine."""
        if is_local_main():
            self.write_event(event)

    def train(self) -> dict[str, Any]:
        """Train from the last checkpoint, if there is one, to the last step or the pause.

        Returns:
            The best ``scores``, the number of ``steps``, and the costs of the loop.

        Raises:
            TransientError: A batch does not fit into memory.
            StageError: The gradient is not finite.
        """
        if self.task.needs_reference(self.schedule.rows):
            model = self.method.model  # whose weights are those before the training until it is resumed
            arguments = (model, self.task, self.schedule.rows, self.collate, self.precision)
            self.task.fit_reference(collect_statistics(*arguments, self.task.reference_statistics))
        self.progress = self.checkpoints.resume()
        self.method.model.train()
        begin, is_local_sgd, self.started = self.progress.step, self.strategy.mode == "local_sgd", time.monotonic()
        end = min(self.schedule.total, self.job.stop_at_step or self.schedule.total)
        for examples, batch in islice(self.schedule.steps(begin), max(0, end - begin)):
            loss = self.take_step(examples, batch)
            self.progress.step = step = self.progress.step + 1
            self._report_step(loss, begin)
            is_averaged = is_local_sgd and step % self.options["local_sgd_steps"] == 0
            if is_averaged:
                self.strategy.optimizer.average()
            is_last = step == end
            if is_last or self._is_evaluation_due(step):
                self._evaluate()
                if self._is_out_of_patience():
                    break
            if is_last and end < self.schedule.total:
                self.checkpoints.checkpoint(self.progress)
            elif not is_local_sgd or is_averaged:
                self.checkpoints.checkpoint_if_due(self.progress)
        return {"scores": self.progress.best_scores, "steps": self.progress.step, **self._costs()}

    def write_draft(self) -> None:
        """Write the best weights; call it after the process group is destroyed."""
        self.checkpoints.write_draft(self.task, self.schedule.total)

    def _costs(self) -> dict[str, float]:
        """Return the loop's seconds, those of them spent on checkpoints, and the largest memory of a rank in bytes."""
        peak = torch.tensor(float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE))
        return {
            "seconds": round(time.monotonic() - self.started, 2),
            "held_up_s": round(self.checkpoints.seconds, 3),
            "peak_memory_bytes": int(collectives.all_reduce_max(peak)),
        }

    # -- step ----------------------------------------------------------------------------------------

    def take_step(self, examples: Sequence[Encoded], batch: Indices) -> float:
        """Take one optimizer step on this rank's share of the batch, and return the share's mean loss."""
        step = self.progress.step
        # the seed of dropout follows from the step, so that a resumed run draws the same masks
        torch.manual_seed((self.job.seed * 1_000_003 + step) * 4099 + self.rank)
        share = shard(batch, self.rank, self.world)
        microbatches = min(int(self.options["gradient_accumulation_steps"]), len(share))
        loss_sum = weight = 0.0
        for number in range(microbatches):
            rows = [examples[int(index)] for index in shard(share, number, microbatches)]
            is_last = number == microbatches - 1
            with self.strategy.microbatch(last=is_last):
                loss, row_weight = self._forward(rows)
                weight += row_weight
                loss_sum += float(loss.detach())
                if is_last and (extra := self.method.extra_loss()) is not None:
                    loss = loss + extra * weight
                loss.backward()  # type: ignore[no-untyped-call]
            self.strategy.optimizer.accumulate()
        mean = loss_sum / weight if weight else 0.0
        norm = self.strategy.optimizer.step(self._learning_rate(step), self.options["max_grad_norm"], weight)
        if not math.isfinite(norm):
            raise StageError(self._divergence_message(mean))
        if self.options["method"] == "adalora":
            self.strategy.optimizer.flat.unflatten_gradients()
            self.method.after_step(step)
            self.method.model.zero_grad()
        if self.ema is not None:
            self.ema.update(step)
        return mean

    def _forward(self, rows: Sequence[Encoded]) -> tuple[Tensor, float]:
        """Return the loss summed over the rows, or over the positions it counts, and the divisor of the sum."""
        tensors = self.collate(rows, targets=True)
        self.samples += len(rows)
        self.tokens += tensors["input_ids"].numel()
        try:
            with self.precision.context(self.device):
                inputs = tensors if self.task.model_computes_loss else self.collate.without_targets(tensors)
                arguments = self.auxiliary_loss.forward_kwargs if self.auxiliary_loss is not None else {}
                outputs = self.strategy.module(**inputs, **arguments)
            loss, denominator = self.task.loss(outputs, tensors, self.loss_options)
            if self.auxiliary_loss is not None:
                inputs = self.collate.without_targets(tensors)
                loss = self.auxiliary_loss(inputs, outputs, self.task.counted_positions(tensors), loss)
            return loss, float(denominator)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY):
                raise TransientError(self._out_of_memory_message(*tensors["input_ids"].shape)) from error
            raise

    def _learning_rate(self, step: int) -> float:
        schedule, warmup_ratio = self.options["schedule"], float(self.options["warmup_ratio"])
        return float(self.options["lr"]) * lr_factor(schedule, step, self.schedule.total, warmup_ratio)

    def _out_of_memory_message(self, rows: int, longest: int) -> str:
        return (
            f"a batch does not fit into memory: {rows} rows of up to {longest} tokens at step {self.progress.step + 1} "
            f"on rank {self.rank}. Try train.torch_ddp.gradient_accumulation_steps=2 (or more), "
            f"batch_tokens={rows * longest // 2}, activation_checkpointing=true, or a smaller task.max_length"
        )

    def _divergence_message(self, loss: float) -> str:
        step, checkpoints = self.progress.step, list_checkpoints(Path(self.job.folder))
        fault = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        last = f"the last good checkpoint is {checkpoints[0]}" if checkpoints else "there is no checkpoint yet"
        return (
            f"{fault} at step {step + 1} of {self.schedule.total} (epoch {self.schedule.epoch_at(step):.2f}, "
            f"learning rate {self._learning_rate(step):.2e}); {last}. "
            "Try a smaller train.torch_ddp.lr, a longer warmup_ratio, or precision=fp32"
        )

    # -- evaluation ----------------------------------------------------------------------------------

    def _is_evaluation_due(self, step: int) -> bool:
        every = self.options["eval_steps"]
        return step % every == 0 if every is not None else step in self.schedule.epoch_ends

    def _evaluate(self) -> None:
        """Score the validation split, and save the weights if they are the best so far."""
        if self.strategy.mode == "local_sgd":
            self.strategy.optimizer.average()
        self.strategy.optimizer.catch_up_all()
        for state in self.auxiliary_state.values():
            collectives.all_reduce_mean(state)  # otherwise each rank would score its share with another state
        with self.ema.swap_in() if self.ema is not None else nullcontext():
            self._sync_ema_weights()
            scores = evaluate(self.method.model, self.task, self.validation, self.collate, self.precision)
            for name, value in scores.items():
                unit = self.task.metrics[name].unit if name in self.task.metrics else ""
                self.emit(Metric(name, value, self.progress.step, unit))
            if self.progress.update(self.task.objective(scores), scores):
                self.checkpoints.save_best(self.progress)
        self._sync_ema_weights()

    def _sync_ema_weights(self) -> None:
        if self.ema is not None:
            self.strategy.optimizer.flat.sync_weights()

    def _is_out_of_patience(self) -> bool:
        patience = self.options["patience"]
        return patience is not None and self.progress.evals_without_improvement >= int(patience)

    def _report_step(self, loss: float, begin: int) -> None:
        """Emit a step with the rates of all ranks, which share each batch evenly."""
        step, total, seconds = self.progress.step, self.schedule.total, time.monotonic() - self.started
        event = Step(
            step=step,
            steps=total,
            epoch=round(self.schedule.epoch_at(step), 3),
            loss=round(loss, 5),
            learning_rate=self._learning_rate(step - 1),
            samples_per_s=round(self.world * self.samples / seconds, 1),
            tokens_per_s=round(self.world * self.tokens / seconds, 1),
            seconds_left=round((total - step) * seconds / (step - begin), 1),
        )
        self.emit(event)

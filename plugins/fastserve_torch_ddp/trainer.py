"""The training loop of one rank: steps, looks at the validation split, and what is told about them."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastserve_core.data import load_dataset
from fastserve_core.errors import StageFailed
from fastserve_core.events import Event, Metric, Step, WarningRaised
from fastserve_core.processes import event_writer
from fastserve_core.tasks import Encoded, load_task
from fastserve_torch_ddp.build import BatchCollator, build, build_strategy
from fastserve_torch_ddp.checkpointing import checkpoint
from fastserve_torch_ddp.checkpointing.checkpoint_manager import AVERAGES, CheckpointManager
from fastserve_torch_ddp.checkpointing.validation import evaluate
from fastserve_torch_ddp.data.batches import BatchSchedule, Indices, shard
from fastserve_torch_ddp.data.tokens import TokenDataset
from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.job import TrainingJob, own_device, writes
from fastserve_torch_ddp.ops import precision
from fastserve_torch_ddp.optim.auxiliary_loss import load_auxiliary_loss
from fastserve_torch_ddp.optim.ema import ExponentialMovingAverage
from fastserve_torch_ddp.optim.losses import count_labels, make_loss
from fastserve_torch_ddp.optim.schedules import lr_factor

KIBIBYTE = 1024
NO_MEMORY = ("can't allocate memory", "out of memory", "bad allocation", "could not create a primitive")


class Trainer:
    """One rank's model, data and position."""

    def __init__(self, job: TrainingJob) -> None:
        self.job, self.options, self.device = job, job.options, own_device()
        self.rank, self.world = collectives.ranks()
        self.tell = event_writer(job.events)
        self.task = load_task(*job.task)
        encode, rows = self.task.encoder(Path(job.model)), TokenDataset(Path(job.tokens))
        self.course = BatchSchedule(rows, self.task, self.options, job.seed, job.steps)
        self.validation = self.task.examples(encode(load_dataset(Path(job.data)).rows("validation")), "validation")
        self.method = build(job, self.task, self.device, self.course.total)
        self.feed = BatchCollator(self.task, self.method.model, self.device)
        labels = job.task[2]
        balanced = self.options["class_weights"] == "balanced"
        counts = count_labels((one.target for one in rows), len(labels)) if balanced else ()
        self.loss = make_loss(self.options, self.task.head, labels, counts)
        self.numbers = precision.choose_precision(self.options, self.device)
        self.lesson = load_auxiliary_loss(job, self.loss, self.method.model, self.numbers, self.device)
        self.way = build_strategy(self.method.model, self.options, self.numbers, job.seed, self.device)
        self.averages = self._averages()
        self.auxiliary_state: Mapping[str, Tensor] = getattr(self.lesson, "state", {})
        self.keeping = CheckpointManager(
            job, self.way, self.method, self.averages, self.auxiliary_state, lambda text: self.emit(WarningRaised(text))
        )
        self.samples = self.tokens = 0

    def _averages(self) -> ExponentialMovingAverage | None:
        decay = self.options["ema_decay"]
        return (
            ExponentialMovingAverage({AVERAGES: self.way.optimizer.flat.master}, float(decay))
            if decay is not None
            else None
        )

    def emit(self, event: Event) -> None:
        if writes():  # on each machine, for its own screen
            self.tell(event)

    def train(self) -> dict[str, Any]:
        """From the last checkpoint, if there is one, to the last step."""
        self.progress = self.keeping.resume()
        self.method.model.train()
        begin, every, alone = self.progress.step, self.options["eval_steps"], self.way.way == "alone"
        self.started = time.monotonic()
        end = min(self.course.total, self.job.pause or self.course.total)
        for examples, batch in self.course.steps(begin) if begin < end else ():
            loss = self._step(examples, batch)
            self.progress.step += 1
            step = self.progress.step
            self._tell_step(loss, begin)
            averaged = alone and step % self.options["local_sgd_steps"] == 0
            if averaged:
                self.way.optimizer.average()
            last = step == end
            if last or (step % every == 0 if every is not None else step in self.course.ends):
                self._evaluate()
                if self._out_of_patience():
                    break
            if last and end < self.course.total:
                self.keeping.checkpoint(self.progress)
                break
            if not alone or averaged:
                self.keeping.checkpoint_if_due(self.progress)
        return {"scores": self.progress.best_scores, "steps": self.progress.step, **self._costs()}

    def write_draft(self) -> None:
        """What the training comes to; to be called when there is no process group any more."""
        self.keeping.write_draft(self.task, self.course.total)

    def _costs(self) -> dict[str, float]:
        """The loop's seconds, those of them that keeping weights held it up, and the largest rank's memory."""
        peak = torch.tensor(float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE))
        return {
            "seconds": round(time.monotonic() - self.started, 2),
            "held_up_s": round(self.keeping.seconds, 3),
            "peak_memory_bytes": int(collectives.all_reduce_max(peak)),
        }

    # -- a step --------------------------------------------------------------------------------------

    def _step(self, examples: Sequence[Encoded], batch: Indices) -> float:
        """One optimizer step on this rank's share of the batch; returns the share's mean loss."""
        step = self.progress.step
        # dropout's random numbers follow from the step, so a resumed run draws the same ones
        torch.manual_seed((self.job.seed * 1_000_003 + step) * 4099 + self.rank)
        mine = shard(batch, self.rank, self.world)
        parts = min(int(self.options["gradient_accumulation_steps"]), len(mine))
        summed = weight = 0.0
        for number in range(parts):
            rows = [examples[int(place)] for place in shard(mine, number, parts)]
            with self.way.microbatch(last=number == parts - 1):
                loss, counted = self._forward(rows)
                weight += counted
                summed += float(loss.detach())
                if number == parts - 1 and (extra := self.method.extra_loss()) is not None:
                    loss = loss + extra * weight
                loss.backward()  # type: ignore[no-untyped-call]
            self.way.optimizer.accumulate()
        mean = summed / weight if weight else 0.0
        norm = self.way.optimizer.step(self._rate(step), self.options["max_grad_norm"], weight)
        if not math.isfinite(norm):
            raise StageFailed(self._divergence_error(mean))
        if self.options["method"] == "adalora":
            self.way.optimizer.flat.unflatten_gradients()
            self.method.after_step(step)
            self.method.model.zero_grad()
        if self.averages is not None:
            self.averages.update(step)
        return mean

    def _forward(self, rows: Sequence[Encoded]) -> tuple[Tensor, float]:
        """The loss summed over the rows (or what the loss counts), and by what the sum is to be divided."""
        tensors = self.feed(rows, targets=True)
        self.samples += len(rows)
        self.tokens += tensors["input_ids"].numel()
        try:
            with self.numbers.context(self.device):
                if self.loss is None:
                    return self.way.module(**tensors).loss * len(rows), float(len(rows))
                labels = tensors.pop("labels")
                asked = self.lesson.asks if self.lesson is not None else {}
                outputs = self.way.module(**tensors, **asked)
            loss = self.loss(outputs.logits, labels)
            if self.lesson is not None:
                loss = self.lesson(tensors, outputs, self.loss.counted(labels), loss)
            return loss, float(self.loss.denominator(labels))
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
                raise StageFailed(self._out_of_memory_error(*tensors["input_ids"].shape)) from error
            raise

    def _rate(self, step: int) -> float:
        options = self.options
        return float(options["lr"]) * lr_factor(
            options["schedule"], step, self.course.total, float(options["warmup_ratio"])
        )

    def _out_of_memory_error(self, rows: int, longest: int) -> str:
        return (
            f"a batch does not fit into memory: {rows} rows of up to {longest} tokens at step {self.progress.step + 1} "
            f"on rank {self.rank}. Try train.torch_ddp.gradient_accumulation_steps=2 (or more), "
            f"batch_tokens={rows * longest // 2}, activation_checkpointing=true, or a smaller task.max_length"
        )

    def _divergence_error(self, loss: float) -> str:
        step, kept = self.progress.step, checkpoint.checkpoints(Path(self.job.folder))
        what = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        left = f"the last good checkpoint is {kept[0]}" if kept else "there is no checkpoint yet"
        return (
            f"{what} at step {step + 1} of {self.course.total} (epoch {self.course.epoch_at(step):.2f}, learning rate "
            f"{self._rate(step):.2e}); {left}. "
            "Try a smaller train.torch_ddp.lr, a longer warmup_ratio, or precision=fp32"
        )

    # -- a look at the validation split ---------------------------------------------------------------

    def _evaluate(self) -> None:
        """Score the validation split; keep the weights when they are the best so far."""
        if self.way.way == "alone":
            self.way.optimizer.average()
        self.way.optimizer.catch_up_all()
        for one in self.auxiliary_state.values():
            collectives.all_reduce_mean(one)  # or each rank would score its share with others
        with self.averages.swap_in() if self.averages is not None else nullcontext():
            self._spread_averages()
            own = self.loss is None  # the model's own loss says which outputs it needs
            scores = evaluate(self.method.model, self.task, self.validation, self.feed, self.numbers, own)
            for name, value in scores.items():
                self.emit(Metric(name, value, self.progress.step))
            if self.progress.update(self.task.objective(scores), scores):
                self.keeping.save_best(self.progress)
        self._spread_averages()

    def _spread_averages(self) -> None:
        if self.averages is not None:
            self.way.optimizer.flat.sync_weights()

    def _out_of_patience(self) -> bool:
        patience = self.options["patience"]
        return patience is not None and self.progress.evals_without_improvement >= int(patience)

    def _tell_step(self, loss: float, begin: int) -> None:
        """The rates are those of all ranks, which share each batch evenly."""
        step, total, seconds = self.progress.step, self.course.total, time.monotonic() - self.started
        self.emit(
            Step(
                step=step,
                steps=total,
                epoch=round(self.course.epoch_at(step), 3),
                loss=round(loss, 5),
                learning_rate=self._rate(step - 1),
                samples_per_s=round(self.world * self.samples / seconds, 1),
                tokens_per_s=round(self.world * self.tokens / seconds, 1),
                seconds_left=round((total - step) * seconds / (step - begin), 1),
            )
        )

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

from fastserve_core.data.dataset import load
from fastserve_core.errors import StageFailed
from fastserve_core.events import Event, Metric, Step, Warned
from fastserve_core.processes.child import event_writer
from fastserve_core.tasks.load import load_task
from fastserve_core.tasks.task import Encoded
from fastserve_torch_ddp.assembly import Feed, bring_together, build
from fastserve_torch_ddp.feeding.batches import Course, Places, share
from fastserve_torch_ddp.feeding.tokens import TokenRows
from fastserve_torch_ddp.job import Job, own_device, writes
from fastserve_torch_ddp.kept import checkpoint
from fastserve_torch_ddp.kept.keeping import AVERAGES, Keeping
from fastserve_torch_ddp.kept.validation import measure
from fastserve_torch_ddp.kernels import numbers
from fastserve_torch_ddp.ranks import exchange
from fastserve_torch_ddp.steps.averages import Averages
from fastserve_torch_ddp.steps.lessons import take_lesson
from fastserve_torch_ddp.steps.losses import count_labels, make_loss
from fastserve_torch_ddp.steps.schedules import factor

KIBIBYTE = 1024
NO_MEMORY = ("can't allocate memory", "out of memory", "bad allocation", "could not create a primitive")


class Trainer:
    """One rank's model, data and position."""

    def __init__(self, job: Job) -> None:
        self.job, self.options, self.device = job, job.options, own_device()
        self.rank, self.world = exchange.ranks()
        self.tell = event_writer(job.events)
        self.task = load_task(*job.task)
        encode, rows = self.task.encoder(Path(job.model)), TokenRows(Path(job.tokens))
        self.course = Course(rows, self.task, self.options, job.seed, job.steps)
        self.validation = self.task.examples(encode(load(Path(job.data)).rows("validation")), "validation")
        self.method = build(job, self.task, self.device, self.course.total)
        self.feed = Feed(self.task, self.method.model, self.device)
        labels = job.task[2]
        balanced = self.options["class_weights"] == "balanced"
        counts = count_labels((one.target for one in rows), len(labels)) if balanced else ()
        self.loss = make_loss(self.options, self.task.head, labels, counts)
        self.numbers = numbers.choose(self.options, self.device)
        self.lesson = take_lesson(job, self.loss, self.method.model, self.numbers, self.device)
        self.way = bring_together(self.method.model, self.options, self.numbers, job.seed, self.device)
        self.averages = self._averages()
        self.taught: Mapping[str, Tensor] = getattr(self.lesson, "state", {})
        self.keeping = Keeping(
            job, self.way, self.method, self.averages, self.taught, lambda text: self.emit(Warned(text))
        )
        self.samples = self.tokens = 0

    def _averages(self) -> Averages | None:
        decay = self.options["ema_decay"]
        return Averages({AVERAGES: self.way.optimizer.flat.master}, float(decay)) if decay is not None else None

    def emit(self, event: Event) -> None:
        if writes():  # on each machine, for its own screen
            self.tell(event)

    def train(self) -> dict[str, Any]:
        """From the last checkpoint, if there is one, to the last step."""
        self.progress = self.keeping.resume()
        self.method.model.train()
        begin, every, alone = self.progress.step, self.options["evaluate_every"], self.way.way == "alone"
        self.started = time.monotonic()
        end = min(self.course.total, self.job.pause or self.course.total)
        for examples, batch in self.course.steps(begin) if begin < end else ():
            loss = self._step(examples, batch)
            self.progress.step += 1
            step = self.progress.step
            self._tell_step(loss, begin)
            averaged = alone and step % self.options["average_every"] == 0
            if averaged:
                self.way.optimizer.average()
            last = step == end
            if last or (step % every == 0 if every is not None else step in self.course.ends):
                self._look()
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
            "peak_memory_bytes": int(exchange.most(peak)),
        }

    # -- a step --------------------------------------------------------------------------------------

    def _step(self, examples: Sequence[Encoded], batch: Places) -> float:
        """One optimizer step on this rank's share of the batch; returns the share's mean loss."""
        step = self.progress.step
        # dropout's random numbers follow from the step, so a resumed run draws the same ones
        torch.manual_seed((self.job.seed * 1_000_003 + step) * 4099 + self.rank)
        mine = share(batch, self.rank, self.world)
        parts = min(int(self.options["gradient_accumulation_steps"]), len(mine))
        summed = weight = 0.0
        for number in range(parts):
            rows = [examples[int(place)] for place in share(mine, number, parts)]
            with self.way.part(last=number == parts - 1):
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
            raise StageFailed(self._diverged(mean))
        if self.options["method"] == "adalora":
            self.way.optimizer.flat.show_gradients()
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
                raise StageFailed(self._does_not_fit(*tensors["input_ids"].shape)) from error
            raise

    def _rate(self, step: int) -> float:
        options = self.options
        return float(options["lr"]) * factor(
            options["schedule"], step, self.course.total, float(options["warmup_ratio"])
        )

    def _does_not_fit(self, rows: int, longest: int) -> str:
        return (
            f"a batch does not fit into memory: {rows} rows of up to {longest} tokens at step {self.progress.step + 1} "
            f"on rank {self.rank}. Try train.torch_ddp.gradient_accumulation_steps=2 (or more), "
            f"batch_tokens={rows * longest // 2}, activation_checkpointing=true, or a smaller task.max_length"
        )

    def _diverged(self, loss: float) -> str:
        step, kept = self.progress.step, checkpoint.checkpoints(Path(self.job.folder))
        what = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        left = f"the last good checkpoint is {kept[0]}" if kept else "there is no checkpoint yet"
        return (
            f"{what} at step {step + 1} of {self.course.total} (epoch {self.course.epoch_at(step):.2f}, learning rate "
            f"{self._rate(step):.2e}); {left}. "
            "Try a smaller train.torch_ddp.lr, a longer warmup_ratio, or precision=fp32"
        )

    # -- a look at the validation split ---------------------------------------------------------------

    def _look(self) -> None:
        """Score the validation split; keep the weights when they are the best so far."""
        if self.way.way == "alone":
            self.way.optimizer.average()
        self.way.optimizer.settle()
        for one in self.taught.values():
            exchange.average(one)  # or each rank would score its share with others
        with self.averages.swapped() if self.averages is not None else nullcontext():
            self._spread_averages()
            own = self.loss is None  # the model's own loss says which outputs it needs
            scores = measure(self.method.model, self.task, self.validation, self.feed, self.numbers, own)
            for name, value in scores.items():
                self.emit(Metric(name, value, self.progress.step))
            if self.progress.take(self.task.objective(scores), scores):
                self.keeping.best(self.progress)
        self._spread_averages()

    def _spread_averages(self) -> None:
        if self.averages is not None:
            self.way.optimizer.flat.spread()

    def _out_of_patience(self) -> bool:
        patience = self.options["patience"]
        return patience is not None and self.progress.without_gain >= int(patience)

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

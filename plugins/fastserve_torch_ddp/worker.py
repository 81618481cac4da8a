"""What each rank does: the training loop, its evaluation, and its checkpoints."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.parallel import DistributedDataParallel

from fastserve_core.children import die_with_parent, event_writer
from fastserve_core.data import load
from fastserve_core.errors import UserError
from fastserve_core.events import Event, Metric, Step, Warned
from fastserve_core.predictor import by_length, load_task
from fastserve_core.task import Encoded, Task
from fastserve_torch_ddp import checkpoint
from fastserve_torch_ddp.batches import epoch_batches, share

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model"),
)
EVAL_BATCH = 64
STEP_SECONDS = 0.25
"""A step is told at most this often."""


@dataclass(frozen=True)
class Job:
    """What the ranks are given; plain values, since it crosses a process border."""

    model: str
    data: str
    task: tuple[str, Mapping[str, Any], Sequence[str]]
    folder: str
    options: Mapping[str, Any]
    steps: int | None
    seed: int
    threads: int
    events: str


@record
def work(job: Job) -> dict[str, Any]:
    """A rank's whole life; rank 0 returns the validation scores and the steps taken."""
    die_with_parent()
    torch.set_num_threads(job.threads)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        return Trainer(job).train()
    except UserError as error:
        return {"error": str(error)}
    finally:
        dist.destroy_process_group()


@dataclass
class Progress:
    """Where training stands; what a checkpoint holds besides tensors."""

    step: int = 0
    best: float | None = None
    best_scores: dict[str, float] = field(default_factory=dict)
    without_gain: int = 0
    samples: int = 0


class Trainer:
    """One rank's model, data and position."""

    def __init__(self, job: Job) -> None:
        self.job, self.options, self.folder = job, job.options, Path(job.folder)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) if torch.cuda.is_available() else 0)
        self.device = self.device if torch.cuda.is_available() else torch.device("cpu")
        self.emit_event = event_writer(job.events)
        torch.manual_seed(job.seed)
        name, task_options, labels = job.task
        self.task: Task = load_task(name, task_options, labels)
        self.model = self.task.build(Path(job.model)).to(self.device)
        encode = self.task.encoder(Path(job.model))
        data = load(Path(job.data))
        self.train_rows, self.validation = encode(data.rows("train")), encode(data.rows("validation"))
        self.lengths = [len(one) for one in self.train_rows]
        self.optimizer = make_optimizer(self.model, self.options)
        self.takes = set(signature(self.model.forward).parameters)
        self.progress = Progress()
        self.started = self.told = self.saved = time.monotonic()
        self.tokens = 0

    def emit(self, event: Event) -> None:
        if self.rank == 0:
            self.emit_event(event)

    # -- the loop ------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """From the last checkpoint, if there is one, to the last step; then the best weights are written."""
        self._resume()
        ddp = DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        self.model.train()
        begin = self.progress.step
        per_epoch = len(epoch_batches(self.lengths, self.options["batch_size"], self.job.seed, 0))
        planned = per_epoch * int(self.options["epochs"])
        total = min(self.job.steps or planned, planned)
        for batch in self._batches(begin, total):
            loss = self._step(ddp, batch, total)
            self.progress.step += 1
            self.progress.samples += len(batch)
            self._tell(loss, begin, total, per_epoch)
            if self.progress.step % per_epoch == 0 or self.progress.step == total:
                self._evaluate()
                if self._out_of_patience():
                    break
            self._save_sometimes()
        self._write_draft()
        return {"scores": self.progress.best_scores, "steps": self.progress.step}

    def _batches(self, begin: int, total: int) -> Iterator[list[int]]:
        """The global batches from one step to another; the order depends on nothing but seed and epoch."""
        step, epoch = 0, 0
        while step < total:
            for batch in epoch_batches(self.lengths, self.options["batch_size"], self.job.seed, epoch):
                if step >= total:
                    return
                if step >= begin:
                    yield batch
                step += 1
            epoch += 1

    def _step(self, ddp: DistributedDataParallel, batch: list[int], total: int) -> float:
        # dropout's random numbers follow from the step, so a resumed run draws the same ones
        torch.manual_seed((self.job.seed * 1_000_003 + self.progress.step) * 4099 + self.rank)
        set_learning_rate(self.optimizer, self.options, self.progress.step, total)
        mine = share(batch, self.rank, self.world)
        parts = min(int(self.options["gradient_accumulation_steps"]), len(mine))
        summed = 0.0
        for number in range(parts):
            rows = [self.train_rows[place] for place in share(mine, number, parts)]
            synchronised = number == parts - 1
            context: AbstractContextManager[Any] = nullcontext() if synchronised else ddp.no_sync()
            with context:
                with self._autocast():
                    loss = ddp(**self._tensors(rows, targets=True)).loss / parts
                loss.backward()
            summed += loss.item()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.options["max_grad_norm"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return summed

    def _tensors(self, rows: Sequence[Encoded], targets: bool) -> dict[str, Tensor]:
        arrays = self.task.collate(rows, targets=targets)
        self.tokens += arrays["input_ids"].size if targets else 0
        return {name: torch.from_numpy(one).to(self.device) for name, one in arrays.items() if name in self.takes}

    def _autocast(self) -> AbstractContextManager[Any]:
        wanted = self.options["precision"]
        if wanted == "bf16" or (wanted == "auto" and has_bf16(self.device)):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    # -- evaluation ----------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Score the validation split, each rank its share; keep the weights when they are the best so far."""
        self.model.eval()
        mine = self.validation[self.rank :: self.world]
        evidence: list[Any] = []
        with torch.inference_mode(), self._autocast():
            for places in by_length(mine, EVAL_BATCH):
                rows = [mine[place] for place in places]
                logits = self.model(**self._tensors(rows, targets=False)).logits
                evidence += self.task.evidence({"logits": logits.float().cpu().numpy()}, rows)
        self.model.train()
        shares: list[list[Any]] = [[] for _ in range(self.world)]
        dist.all_gather_object(shares, evidence)
        scores = self.task.score([one for part in shares for one in part])
        for name, value in scores.items():
            self.emit(Metric(name, value, self.progress.step))
        objective = self.task.objective(scores)
        if self.progress.best is None or objective > self.progress.best:
            self.progress.best, self.progress.best_scores, self.progress.without_gain = objective, scores, 0
            if self.rank == 0:
                tensors = checkpoint.trained(self.model)
                checkpoint.write(self.folder / "best.safetensors", tensors, {"step": self.progress.step})
        else:
            self.progress.without_gain += 1

    def _out_of_patience(self) -> bool:
        patience = self.options["patience"]
        return patience is not None and self.progress.without_gain >= int(patience)

    # -- keeping -------------------------------------------------------------------------------------

    def _resume(self) -> None:
        found = checkpoint.restore(self.folder, self.model, self.optimizer, lambda text: self.emit(Warned(text)))
        if found is not None:
            self.progress = Progress(**found)
        dist.barrier()  # rank 0 may write the next checkpoint only when all have read this one

    def _save_sometimes(self) -> None:
        if self.rank == 0 and time.monotonic() - self.saved >= self.options["checkpoint_every_s"]:
            about = vars(self.progress).copy()
            checkpoint.save(self.folder, about.pop("step"), self.model, self.optimizer, about)
            self.saved = time.monotonic()

    def _write_draft(self) -> None:
        """The best weights as a Hugging Face folder, with the tokenizer the model came with."""
        if self.rank == 0:
            tensors, _ = checkpoint.read(self.folder / "best.safetensors")
            checkpoint.restore_model(self.model, tensors)
            draft = self.folder / "draft"
            shutil.rmtree(draft, ignore_errors=True)
            self.model.save_pretrained(draft)  # type: ignore[operator]
            for name in TOKENIZER_FILES:
                if (Path(self.job.model) / name).is_file():
                    shutil.copyfile(Path(self.job.model) / name, draft / name)
        dist.barrier()

    def _tell(self, loss: float, begin: int, total: int, per_epoch: int) -> None:
        now, step = time.monotonic(), self.progress.step
        if self.rank != 0 or (now - self.told < STEP_SECONDS and step < total):
            return
        self.told, seconds = now, now - self.started
        done = step - begin
        samples = done * self.progress.samples / step
        self.emit(
            Step(
                step=step,
                steps=total,
                epoch=round(step / per_epoch, 3),
                loss=round(loss, 5),
                learning_rate=self.optimizer.param_groups[0]["lr"],
                samples_per_s=round(samples / seconds, 1),
                tokens_per_s=round(self.world * self.tokens / seconds, 1),
                seconds_left=round((total - step) * seconds / done, 1),
            )
        )


def make_optimizer(model: nn.Module, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) without decay for biases and norms."""
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    plain = [one for name, one in named if one.ndim < 2]
    decayed = [one for name, one in named if one.ndim >= 2]
    groups = [{"params": decayed, "weight_decay": options["weight_decay"]}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options["lr"], fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, options: Mapping[str, Any], step: int, total: int) -> None:
    """Up linearly over the warm-up, then down linearly to 0."""
    warmup = max(1, round(total * options["warmup_ratio"]))
    factor = (step + 1) / warmup if step < warmup else (total - step) / max(1, total - warmup)
    for group in optimizer.param_groups:
        group["lr"] = options["lr"] * factor


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 products are done by the hardware, rather than emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(check())

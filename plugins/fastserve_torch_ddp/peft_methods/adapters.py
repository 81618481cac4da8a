"""The training methods: all weights, LoRA, AdaLoRA, bottleneck adapters; and what stays frozen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastserve_core.errors import InvalidOption, MissingPackage
from fastserve_torch_ddp.peft_methods import bottleneck
from fastserve_torch_ddp.peft_methods.module_selection import freeze, head_parameters, select_modules

TARGETS = "train.torch_ddp.adapter_targets"
NAME = "default"
"""What peft calls an adapter that was given no name."""
FACTOR = re.compile(r"\.lora_[AB]\.")
INITIAL_RANK = 1.5
"""AdaLoRA begins with this many times the rank that it ends with (Zhang et al. 2023)."""
ORTHOGONAL = 0.1
"""The weight of AdaLoRA's extra loss; with peft's 0.5, short trainings learn little else."""


class FinetuningMethod:
    """How a model is trained, and what the loop has to do for it; this one trains the weights themselves."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def extra_loss(self) -> Tensor | None:
        """What is added to the loss of each rank, once a step; it depends on the weights alone."""
        return None

    def after_step(self, step: int) -> None:
        """To be called after the optimizer's step, before the gradients are cleared; steps count from 0.

        It may set entries of parameters to 0, in place.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs besides the model's own tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take in what ``state_dict`` gave."""

    def merge(self) -> nn.Module:
        """The model as ``save_pretrained`` shall write it; training cannot go on after that."""
        return self.model


class Lora(FinetuningMethod):
    """Low-rank changes of the weights (Hu et al. 2021), by peft."""

    def __init__(self, model: nn.Module, options: Mapping[str, Any], total: int) -> None:
        super().__init__(model)
        names = select_modules(model, options["adapter_targets"], TARGETS)
        settings: dict[str, Any] = {
            "target_modules": names,
            "lora_alpha": options["adapter_alpha"],
            "lora_dropout": options["adapter_dropout"],
            "fan_in_fan_out": any(isinstance(model.get_submodule(name), Conv1D) for name in names),
        }
        self.tuner: Any = self._tuner(int(options["adapter_rank"]), settings, total)
        modules: Iterator[Any] = model.modules()
        for module in modules:
            if hasattr(module, "lora_A"):
                # under autocast, casting the inputs up would be undone at once: a sixth of a step
                module.cast_input_dtype_enabled = False

    def _tuner(self, rank: int, settings: dict[str, Any], total: int) -> Any:
        from peft import LoraConfig, LoraModel

        return LoraModel(self.model, LoraConfig(r=rank, **settings), NAME)

    def merge(self) -> nn.Module:
        merged: nn.Module = self.tuner.merge_and_unload()
        return merged


class AdaLora(Lora):
    """LoRA whose ranks move to the layers that need them (Zhang et al. 2023), by peft.

    A tenth of the steps pass before ranks are taken away, and half of them after the last was.
    """

    def _tuner(self, rank: int, settings: dict[str, Any], total: int) -> Any:
        from peft import AdaLoraConfig, AdaLoraModel

        config = AdaLoraConfig(
            init_r=max(rank + 1, ceil(INITIAL_RANK * rank)),
            target_r=rank,
            total_step=total,
            tinit=total // 10,
            tfinal=total // 2,
            deltaT=max(1, total // 500),
            orth_reg_weight=ORTHOGONAL,
            **settings,
        )
        return AdaLoraModel(self.model, config, NAME)  # type: ignore[no-untyped-call]

    def extra_loss(self) -> Tensor | None:
        """How far the factors are from orthogonal: the mean Frobenius norm of P'P - I, times its weight."""
        factors = [(name, one.float()) for name, one in self.model.named_parameters() if FACTOR.search(name)]
        with torch.autocast(factors[0][1].device.type, enabled=False):
            grams = torch.stack([one @ one.T if "lora_A" in name else one.T @ one for name, one in factors])
            distances = torch.linalg.matrix_norm(grams - torch.eye(grams.shape[-1], device=grams.device))
            weighted: Tensor = self._config.orth_reg_weight * distances.mean()
            return weighted

    def after_step(self, step: int) -> None:
        self.tuner.update_and_allocate(step)

    def state_dict(self) -> dict[str, Tensor]:
        """The importance of each weight so far, and which ranks are left."""
        allocator = self.tuner.rankallocator
        averages = {"importance": allocator.exp_avg_ipt, "uncertainty": allocator.exp_avg_unc}
        state = {f"{kind}.{name}": one for kind, by_name in averages.items() for name, one in by_name.items()}
        return state | {f"rank.{name}": torch.tensor(one) for name, one in (self._config.rank_pattern or {}).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        allocator, ranks = self.tuner.rankallocator, {}
        averages = {"importance": allocator.exp_avg_ipt, "uncertainty": allocator.exp_avg_unc}
        for key, value in state.items():
            kind, _, name = key.partition(".")
            if kind == "rank":
                ranks[name] = value.tolist()
            else:
                averages[kind][name] = value.clone()
                allocator.ipt[name] = torch.zeros_like(value)
        self._config.rank_pattern = ranks or None

    @property
    def _config(self) -> Any:
        return self.tuner.peft_config[NAME]


class BottleneckAdapters(FinetuningMethod):
    """Small networks between the layers (Houlsby et al. 2019); they stay part of the model that is saved."""

    def __init__(self, model: nn.Module, options: Mapping[str, Any], total: int) -> None:
        super().__init__(model)
        rank, alpha = int(options["adapter_rank"]), float(options["adapter_alpha"])
        if bottleneck.adapted(model):
            self._check_same(rank, alpha)
        else:
            bottleneck.insert(model, self._targets(options), rank, alpha, float(options["adapter_dropout"]))
        parts = [layer.bottleneck for layer in bottleneck.adapted(model)]
        trained = [one for part in parts for one in part.parameters() if one.requires_grad]
        model.requires_grad_(False)
        for one in trained:
            one.requires_grad_(True)

    def _check_same(self, rank: int, alpha: float) -> None:
        """A model that has adapters is trained on with these."""
        has_rank, has_alpha = bottleneck.shape(self.model)
        if (rank, alpha) != (has_rank, has_alpha):
            raise InvalidOption(
                f"train.torch_ddp: the model has bottleneck adapters of adapter_rank={has_rank} and "
                f"adapter_alpha={has_alpha:g}, which would be trained on; give these, not {rank} and {alpha:g}"
            )

    def _targets(self, options: Mapping[str, Any]) -> list[str]:
        if options["adapter_targets"] is not None:
            return select_modules(self.model, options["adapter_targets"], TARGETS)
        names = [name for name in select_modules(self.model, None, TARGETS) if name.endswith(bottleneck.OUTPUTS)]
        if not names:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in select_modules(self.model, None, TARGETS)}))
            raise InvalidOption(
                f"{TARGETS} must be given: it is not known after which linear layers "
                f"of this model an adapter belongs (there are: {known})"
            )
        return names


METHODS = {"lora": Lora, "adalora": AdaLora, "bottleneck": BottleneckAdapters}


def attach(model: nn.Module, options: Mapping[str, Any], total: int) -> FinetuningMethod:
    """Bring the model into the form that ``method`` and ``freeze`` ask for; it is changed in place.

    An adapter method trains the adapters and the task's head. New weights follow torch's seed. ``total`` is the
    number of steps that are planned. Raises ``InvalidOption`` for names that the model does not have.
    """
    freeze(model, options["freeze"])
    head = [one for one in head_parameters(model) if one.requires_grad]
    name = options["method"]
    try:
        method = METHODS[name](model, options, total) if name != "full" else FinetuningMethod(model)
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"train.torch_ddp.method={name} needs the package {error.name}: pip install 'fastserve-core[torch_ddp]'"
        ) from error
    for one in head:
        one.requires_grad_(True)
    if trainable(model)[0] == 0:
        raise InvalidOption("train.torch_ddp.freeze leaves nothing to train")
    return method


def trainable(model: nn.Module) -> tuple[int, int]:
    """The numbers of parameters that are trained and of all; tied ones count once."""
    sizes = [(one.numel(), one.requires_grad) for one in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)

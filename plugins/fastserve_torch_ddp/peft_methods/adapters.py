"""The fine-tuning methods (full, LoRA, AdaLoRA, bottleneck adapters) and the freezing of parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastserve_core.errors import MissingPackageError, OptionError
from fastserve_torch_ddp.peft_methods import bottleneck
from fastserve_torch_ddp.peft_methods.adapter_files import extract_matrices, write_adapter
from fastserve_torch_ddp.peft_methods.module_selection import freeze, head_parameters, select_modules

TARGETS_OPTION = "train.torch_ddp.adapter_targets"
ADAPTER_NAME = "default"
"""peft's name of an adapter without a name."""
LORA_MATRIX = re.compile(r"\.lora_[AB]\.")
INITIAL_RANK_RATIO = 1.5
"""AdaLoRA's initial rank over its final one (Zhang et al. 2023)."""
ORTHOGONALITY_WEIGHT = 0.1
"""The weight of AdaLoRA's orthogonality loss; with peft's 0.5, short trainings learn little else."""


class FinetuningMethod:
    """Full fine-tuning, and the interface of the other methods to the training loop.

    Args:
        model: The model, which a method may change in place.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def extra_loss(self) -> Tensor | None:
        """Compute a regularization term of the weights, added once a step to the mean loss of each rank."""
        return None

    def after_step(self, step: int) -> None:
        """Update the method after the optimizer's step, before the gradients are cleared.

        The method may set entries of parameters to 0, in place.

        Args:
            step: The number of the step, from 0.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint needs besides the model's own."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state that ``state_dict`` returned."""

    def write_adapter(self, folder: Path, base: Path) -> None:
        """Write the trained weights as an adapter of the base model, if they are one, before ``merge``."""

    def merge(self) -> nn.Module:
        """Return the model in the form to save; training cannot continue after that."""
        return self.model


class Lora(FinetuningMethod):
    """Low-rank adaptation of the weights (Hu et al. 2021), by peft.

    Args:
        model: The model, to which adapters are added in place.
        options: The trainer's options.
        total: The number of optimizer steps.
    """

    def __init__(self, model: nn.Module, options: Mapping[str, Any], total: int) -> None:
        super().__init__(model)
        names = select_modules(model, options["adapter_targets"], TARGETS_OPTION)
        self.fan_in_fan_out = any(isinstance(model.get_submodule(name), Conv1D) for name in names)
        settings: dict[str, Any] = {
            "target_modules": names,
            "lora_alpha": options["adapter_alpha"],
            "lora_dropout": options["adapter_dropout"],
            "fan_in_fan_out": self.fan_in_fan_out,
        }
        self.tuner: Any = self._create_tuner(int(options["adapter_rank"]), settings, total)
        modules: Iterator[Any] = model.modules()
        for module in modules:
            if hasattr(module, "lora_A"):
                # autocast would undo the cast of the inputs to fp32 at once, which costs a sixth of a step
                module.cast_input_dtype_enabled = False

    def _create_tuner(self, rank: int, settings: dict[str, Any], total: int) -> Any:
        from peft import LoraConfig, LoraModel

        return LoraModel(self.model, LoraConfig(r=rank, **settings), ADAPTER_NAME)

    def write_adapter(self, folder: Path, base: Path) -> None:
        """Write the low-rank matrices in PEFT's files, unless other parameters were trained too."""
        matrices = extract_matrices(self.model, ADAPTER_NAME)
        if matrices is not None:
            write_adapter(folder, matrices, base, {"fan_in_fan_out": self.fan_in_fan_out})

    def merge(self) -> nn.Module:
        """Add the low-rank products to the weights and remove the adapters."""
        merged: nn.Module = self.tuner.merge_and_unload()
        return merged


class AdaLora(Lora):
    """LoRA that moves its rank budget to the layers that need it (Zhang et al. 2023), by peft.

    Ranks are pruned from a tenth of the steps to half of them.
    """

    def _create_tuner(self, rank: int, settings: dict[str, Any], total: int) -> Any:
        from peft import AdaLoraConfig, AdaLoraModel

        config = AdaLoraConfig(
            init_r=max(rank + 1, ceil(INITIAL_RANK_RATIO * rank)),
            target_r=rank,
            total_step=total,
            tinit=total // 10,
            tfinal=total // 2,
            deltaT=max(1, total // 500),
            orth_reg_weight=ORTHOGONALITY_WEIGHT,
            **settings,
        )
        return AdaLoraModel(self.model, config, ADAPTER_NAME)  # type: ignore[no-untyped-call]

    def extra_loss(self) -> Tensor | None:
        """Compute the orthogonality loss: the mean Frobenius norm of P'P - I over the matrices, times its weight."""
        named = [(name, weight.float()) for name, weight in self.model.named_parameters() if LORA_MATRIX.search(name)]
        with torch.autocast(named[0][1].device.type, enabled=False):
            grams = torch.stack(
                [weight @ weight.T if "lora_A" in name else weight.T @ weight for name, weight in named]
            )
            distances = torch.linalg.matrix_norm(grams - torch.eye(grams.shape[-1], device=grams.device))
            weighted: Tensor = self._config.orth_reg_weight * distances.mean()
            return weighted

    def after_step(self, step: int) -> None:
        """Update the importance of the ranks, and prune some if the schedule asks for it."""
        self.tuner.update_and_allocate(step)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the importance of each weight so far, and the ranks that are left."""
        allocator = self.tuner.rankallocator
        averages = {"importance": allocator.exp_avg_ipt, "uncertainty": allocator.exp_avg_unc}
        state = {f"{kind}.{name}": value for kind, by_name in averages.items() for name, value in by_name.items()}
        patterns = self._config.rank_pattern or {}
        return state | {f"rank.{name}": torch.tensor(pattern) for name, pattern in patterns.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state that ``state_dict`` returned."""
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
        return self.tuner.peft_config[ADAPTER_NAME]


class BottleneckAdapters(FinetuningMethod):
    """Small networks between the layers (Houlsby et al. 2019), which remain part of the saved model.

    Args:
        model: The model; adapters that it has already are trained further.
        options: The trainer's options.
        total: The number of optimizer steps, which this method does not use.

    Raises:
        OptionError: The model has adapters of another shape, or its linear layers have unknown names.
    """

    def __init__(self, model: nn.Module, options: Mapping[str, Any], total: int) -> None:
        super().__init__(model)
        rank, alpha = int(options["adapter_rank"]), float(options["adapter_alpha"])
        if bottleneck.find_adapters(model):
            self._check_shape(rank, alpha)
        else:
            bottleneck.insert_adapters(model, self._targets(options), rank, alpha, float(options["adapter_dropout"]))
        adapters = [layer.bottleneck for layer in bottleneck.find_adapters(model)]
        trained = [parameter for adapter in adapters for parameter in adapter.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)

    def _check_shape(self, rank: int, alpha: float) -> None:
        """Raise ``OptionError`` if the model's adapters have another rank or alpha."""
        model_rank, model_alpha = bottleneck.read_shape(self.model)
        if (rank, alpha) != (model_rank, model_alpha):
            raise OptionError(
                f"train.torch_ddp: the model already has bottleneck adapters of adapter_rank={model_rank} and "
                f"adapter_alpha={model_alpha:g}: set these values, not {rank} and {alpha:g}"
            )

    def _targets(self, options: Mapping[str, Any]) -> list[str]:
        if options["adapter_targets"] is not None:
            return select_modules(self.model, options["adapter_targets"], TARGETS_OPTION)
        linears = select_modules(self.model, None, TARGETS_OPTION)
        names = [name for name in linears if name.endswith(bottleneck.OUTPUT_PROJECTIONS)]
        if not names:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
            raise OptionError(
                f"{TARGETS_OPTION} must be set: the output projections of this model are not known "
                f"(its linear layers are: {known})"
            )
        return names


METHODS = {"lora": Lora, "adalora": AdaLora, "bottleneck": BottleneckAdapters}


def attach_method(model: nn.Module, options: Mapping[str, Any], total: int) -> FinetuningMethod:
    """Apply the options ``method`` and ``freeze`` to a model, in place.

    An adapter method trains the adapters and the task's head. New weights follow torch's seed.

    Args:
        model: The model.
        options: The trainer's options.
        total: The number of optimizer steps.

    Raises:
        OptionError: A name selects no module, or no parameter is left to train.
        MissingPackageError: The method needs a package that is not installed.
    """
    freeze(model, options["freeze"])
    head = [parameter for parameter in head_parameters(model) if parameter.requires_grad]
    name = options["method"]
    try:
        method = METHODS[name](model, options, total) if name != "full" else FinetuningMethod(model)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"train.torch_ddp.method={name} needs the package {error.name}: pip install 'fastserve-core[torch_ddp]'"
        ) from error
    for parameter in head:
        parameter.requires_grad_(True)
    if count_trainable(model)[0] == 0:
        raise OptionError("train.torch_ddp.freeze leaves nothing to train")
    return method


def count_trainable(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters; tied ones count once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, is_trainable in sizes if is_trainable), sum(size for size, _ in sizes)

"""Accuracy-driven tuning of neural-compressor: leave the most sensitive layers in fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Batch = dict[str, NDArray[Any]]
    Predict = Callable[[Batch], dict[str, NDArray[Any]]]

INT8_LEVELS = 127.5


@dataclass(frozen=True)
class Tuning:
    """Criterion of the tuning.

    Attributes:
        score: Score of a model by its predictions; higher is better.
        tolerable_loss: Fraction of the fp32 model's score that may be lost.
        report: Called with the number of finished trials and their total number.
    """

    score: Callable[[Predict], float]
    tolerable_loss: float
    report: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class TuningResult:
    """Result of a quantization.

    Attributes:
        graph: Quantized graph.
        fp32_layers: Names of the layers that stay in fp32.
        is_tolerable: Whether the loss is at most the tolerable one.
    """

    graph: nn.Module
    fp32_layers: tuple[str, ...]
    is_tolerable: bool


def tune_accuracy(
    captured: Any,
    example: tuple[Any, ...],
    calibrate: Callable[[Any], None],
    make_predict: Callable[[nn.Module], Predict],
    order: Sequence[str],
    tuning: Tuning,
    excluded: Sequence[str] = (),
) -> TuningResult:
    """Quantize with 0, 1, 2, 4, ... of the layers in ``order`` left in fp32, until the loss is tolerable.

    The last trial leaves half of the layers. If no trial is tolerable, the one with the best score is returned.

    Args:
        captured: Graph in fp32.
        example: Inputs of the graph.
        calibrate: Runs the calibration data through a prepared graph.
        make_predict: Returns a graph's function from batches to outputs.
        order: Names of the layers, the most sensitive first.
        tuning: Criterion.
        excluded: Names of layers that stay in fp32 in every trial.
    """
    from neural_compressor.torch.quantization import TuningConfig, autotune

    counts = [0, *(1 << power for power in range(16) if 1 << power < len(order) / 2), len(order) // 2]
    trials = list(dict.fromkeys(counts))
    scores: list[float] = []

    def evaluate(model: nn.Module) -> float:
        tuning.report(len(scores), len(trials) + 1)
        scores.append(tuning.score(make_predict(model)))
        return scores[-1]

    configs = [make_config([*excluded, *order[:count]]) for count in trials]
    config = TuningConfig(configs, tolerable_loss=tuning.tolerable_loss, max_trials=len(trials))
    graph = autotune(captured, config, evaluate, run_fn=calibrate, example_inputs=example)
    baseline, *trial_scores = scores
    is_tolerable = trial_scores[-1] >= baseline * (1 - tuning.tolerable_loss)
    index = len(trial_scores) - 1 if is_tolerable else max(range(len(trial_scores)), key=trial_scores.__getitem__)
    return TuningResult(graph, tuple(order[: trials[index]]), is_tolerable)


def make_config(names: Sequence[str]) -> Any:
    """Return a config that quantizes all layers statically to INT8, except for these."""
    from neural_compressor.torch.quantization import INT8StaticQuantConfig

    config = INT8StaticQuantConfig()
    for name in names:
        config.set_local(name, INT8StaticQuantConfig(w_dtype="fp32", act_dtype="fp32"))
    return config


def rank_by_sensitivity(module: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> list[str]:
    """Return the names of the linear layers, the most sensitive first.

    Sensitivity is the relative squared error of a layer's output when only its inputs and weights are rounded.

    Args:
        module: Module to run.
        batches: Positional inputs of each batch.
    """
    layers = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear}
    errors = dict.fromkeys(layers, 0.0)

    def make_hook(name: str) -> Callable[..., None]:
        def record(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            rounded = nn.functional.linear(_round(inputs[0]), _round(layer.weight, dim=1), layer.bias)
            errors[name] += float((rounded - output).square().mean() / output.square().mean().clamp_min(1e-12))

        return record

    hooks = [layer.register_forward_hook(make_hook(name)) for name, layer in layers.items()]
    try:
        for batch in batches:
            module(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return sorted(layers, key=errors.__getitem__, reverse=True)


def _round(values: Tensor, dim: int | None = None) -> Tensor:
    """Round to 255 steps around zero, with one scale or one per row."""
    limit = values.abs().amax() if dim is None else values.abs().amax(dim, keepdim=True)
    scale = limit.clamp_min(1e-12) / INT8_LEVELS
    return (values / scale).round() * scale

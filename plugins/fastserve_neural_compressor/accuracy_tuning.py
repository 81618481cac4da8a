"""Leave the layers that rounding hurts most in floats: neural-compressor's accuracy-driven tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Batch = dict[str, NDArray[Any]]
    Answers = Callable[[Batch], dict[str, NDArray[Any]]]

INT8_LEVELS = 127.5


@dataclass(frozen=True)
class Tuning:
    """``score`` rates a model by its answers to batches, higher is better; ``tolerable_loss`` is a share of it.

    ``told`` is given how many of the tries are over, and of how many.
    """

    score: Callable[[Answers], float]
    tolerable_loss: float
    told: Callable[[int, int], None] = lambda number, of: None


@dataclass(frozen=True)
class TuningResult:
    """The quantized graph, the layers that stay in floats, and whether it loses no more than is tolerable."""

    graph: nn.Module
    fp32_layers: tuple[str, ...]
    within: bool


def tune_accuracy(
    captured: Any,
    example: tuple[Any, ...],
    calibrate: Callable[[Any], None],
    answers: Callable[[nn.Module], Answers],
    order: Sequence[str],
    tuning: Tuning,
) -> TuningResult:
    """Quantize with 0, 1, 2, 4, … of the layers in ``order`` left in floats, until the loss is tolerable.

    The last try leaves half of them. Of tries that all lose more the best is taken. ``captured`` is the float graph;
    ``answers`` makes a graph answer batches.
    """
    from neural_compressor.torch.quantization import TuningConfig, autotune

    counts = [0, *(1 << power for power in range(16) if 1 << power < len(order) / 2), len(order) // 2]
    tries = list(dict.fromkeys(counts))
    scores: list[float] = []

    def rate(model: nn.Module) -> float:
        tuning.told(len(scores), len(tries) + 1)
        scores.append(tuning.score(answers(model)))
        return scores[-1]

    configs = [config_without(order[:count]) for count in tries]
    config = TuningConfig(configs, tolerable_loss=tuning.tolerable_loss, max_trials=len(tries))
    found = autotune(captured, config, rate, run_fn=calibrate, example_inputs=example)
    baseline, *others = scores
    within = others[-1] >= baseline * (1 - tuning.tolerable_loss)
    chosen = len(others) - 1 if within else max(range(len(others)), key=others.__getitem__)
    return TuningResult(found, tuple(order[: tries[chosen]]), within)


def config_without(names: Sequence[str]) -> Any:
    """Static INT8 for all layers but those of these names."""
    from neural_compressor.torch.quantization import INT8StaticQuantConfig

    config = INT8StaticQuantConfig()
    for name in names:
        config.set_local(name, INT8StaticQuantConfig(w_dtype="fp32", act_dtype="fp32"))
    return config


def by_sensitivity(module: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> list[str]:
    """The linear layers, first those whose output is furthest off when its inputs and weights are rounded alone."""
    layers = {name: one for name, one in module.named_modules() if type(one) is nn.Linear}
    errors = dict.fromkeys(layers, 0.0)

    def watch(name: str) -> Callable[..., None]:
        def seen(layer: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
            rough = nn.functional.linear(_rounded(given[0]), _rounded(layer.weight, dim=1), layer.bias)
            errors[name] += float((rough - output).square().mean() / output.square().mean().clamp_min(1e-12))

        return seen

    hooks = [one.register_forward_hook(watch(name)) for name, one in layers.items()]
    try:
        for batch in batches:
            module(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return sorted(layers, key=errors.__getitem__, reverse=True)


def _rounded(given: Tensor, dim: int | None = None) -> Tensor:
    """In 255 steps round zero, over all or for each row."""
    most = given.abs().amax() if dim is None else given.abs().amax(dim, keepdim=True)
    scale = most.clamp_min(1e-12) / INT8_LEVELS
    return (given / scale).round() * scale

"""Torch engine: run a Hugging Face folder with transformers, in fp32, or in bf16 if its weights have 16 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from fastserve_core.artifacts import read_config
from fastserve_core.inference import Engine
from fastserve_core.processes import PRELOAD_MODULES
from fastserve_core.tasks import DEFAULT_OUTPUTS, Arrays, DecodeEngine
from fastserve_engines.lora import ENCODER_DECODER, refuse_adapters
from fastserve_engines.model_outputs import compute_outputs

GENERATION_OPTIONS = ("min_new_tokens", "num_beams", "length_penalty", "no_repeat_ngram_size")
"""Options of a task that ``generate`` of transformers has under the same names; unset or 0 is its default."""


class TorchEngine(Engine):
    """Engine that every installation has; the reference for other engines."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    imports: ClassVar[tuple[str, ...]] = PRELOAD_MODULES
    takes_weights: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    decodes: ClassVar[bool] = True
    takes_adapters: ClassVar[bool] = True

    def __init__(
        self, folder: Path, threads: int, outputs: Sequence[str] = DEFAULT_OUTPUTS, exact: bool = False
    ) -> None:
        """Load the model.

        Args:
            folder: Folder of the model.
            threads: Number of threads of torch.
            outputs: Patterns of the names of the outputs to return.
            exact: Compute 16-bit weights in fp32.
        """
        import torch

        from fastserve_engines.hugging_face import load_model, to_inference_dtype

        torch.set_num_threads(threads)
        self._torch, self._outputs = torch, outputs
        model = load_model(folder)
        self._model = model.float() if exact else to_inference_dtype(model)
        self.inputs = tuple(signature(self._model.forward).parameters)

    def run(self, inputs: Arrays) -> Arrays:
        """Run one pass.

        Args:
            inputs: Integer arrays of shape (batch, length).

        Returns:
            Outputs by name, in fp32.
        """
        with self._torch.inference_mode():
            outputs = compute_outputs(self._model, self._outputs, self._to_tensors(inputs))
        return {name: tensor.float().numpy() for name, tensor in outputs.items()}

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        """Continue each row of ``input_ids``, or answer it if the model is an encoder with a decoder.

        Args:
            inputs: Integer arrays of shape (batch, length), left-padded for a decoder.
            options: ``max_new_tokens``, and optionally ``temperature`` and others of ``GENERATION_OPTIONS``.

        Returns:
            ``ids`` of the new tokens, of shape (batch, new tokens).
        """
        tensors = self._to_tensors(inputs)
        temperature = float(options.get("temperature", 0.0))
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        others = {name: options[name] for name in GENERATION_OPTIONS if options.get(name)}
        with self._torch.inference_mode():
            ids = self._model.generate(**tensors, max_new_tokens=int(options["max_new_tokens"]), **sampling, **others)
        start = 1 if self._model.config.is_encoder_decoder else tensors["input_ids"].shape[1]
        return {"ids": ids[:, start:].numpy()}

    @staticmethod
    def make_decoder(
        folder: Path, threads: int, memory: int, adapters: Mapping[str, Path] | None = None
    ) -> DecodeEngine:
        """Create a decode engine.

        Args:
            folder: Folder of the model.
            threads: Number of threads of torch.
            memory: Bytes for keys and values.
            adapters: Folders of adapters by name, for a decoder.

        Raises:
            PlanError: There are adapters, and the model is an encoder with a decoder.
        """
        if read_config(folder).get("is_encoder_decoder"):
            from fastserve_engines.seq2seq_torch import TorchAnswerEngine

            refuse_adapters(folder, adapters, ENCODER_DECODER)
            return TorchAnswerEngine(folder, threads, memory)
        from fastserve_engines.torch_decode import TorchDecodeEngine

        return TorchDecodeEngine(folder, threads, memory, adapters)

    def close(self) -> None:
        """Release the model."""
        del self._model

    def _to_tensors(self, inputs: Arrays) -> dict[str, Any]:
        return {name: self._torch.from_numpy(array) for name, array in inputs.items() if name in self.inputs}

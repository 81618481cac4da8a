"""The torch engine: any Hugging Face folder as transformers runs it, in fp32, or in bf16 where weights have 16 bits."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from fastserve_core.inference import Engine
from fastserve_core.processes import PRELOAD_MODULES
from fastserve_core.tasks import Arrays, DecodeEngine


class TorchEngine(Engine):
    """Always there; the reference that other engines are compared with."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    imports: ClassVar[tuple[str, ...]] = PRELOAD_MODULES
    takes_weights: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    decodes: ClassVar[bool] = True

    def __init__(self, folder: Path, threads: int, exact: bool = False) -> None:
        """``exact`` has 16 bit weights computed in fp32."""
        import torch

        from fastserve_engines.hugging_face import load_model, to_inference_dtype

        torch.set_num_threads(threads)
        self._torch = torch
        model = load_model(folder)
        self._model = model.float() if exact else to_inference_dtype(model)
        self.inputs = tuple(signature(self._model.forward).parameters)

    def run(self, inputs: Arrays) -> Arrays:
        with self._torch.inference_mode():
            outputs = self._model(**self._tensors(inputs))
        return {name: one.float().numpy() for name, one in outputs.items() if name.endswith("logits")}

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        tensors = self._tensors(inputs)
        temperature = float(options.get("temperature", 0.0))
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with self._torch.inference_mode():
            ids = self._model.generate(**tensors, max_new_tokens=int(options["max_new_tokens"]), **sampling)
        return {"ids": ids[:, tensors["input_ids"].shape[1] :].numpy()}

    @staticmethod
    def make_decoder(folder: Path, threads: int, memory: int) -> DecodeEngine:
        from fastserve_engines.torch_decode import TorchStepper

        return TorchStepper(folder, threads, memory)

    def close(self) -> None:
        del self._model

    def _tensors(self, inputs: Arrays) -> dict[str, Any]:
        return {name: self._torch.from_numpy(array) for name, array in inputs.items() if name in self.inputs}

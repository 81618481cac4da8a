"""llama.cpp's GGUF files as Hugging Face folders: weights in fp32, whatever they were quantized to."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fastserve_core.errors import ModelError
from fastserve_core.processes import (
    PRELOAD_MODULES,
    child_main,
    run_in_child,
    suppress_library_output,
    threads_per_process,
)


class GGUF:
    """The conversion, in a process of its own: it holds the weights twice."""

    requires: ClassVar[tuple[str, ...]] = ("gguf", "accelerate", "torch", "transformers")
    install: ClassVar[str] = "fastserve-core[gguf]"
    version: ClassVar[int] = 1
    """Raised when another conversion gives other files."""

    def convert(self, file: Path, folder: Path) -> None:
        """Write the model and its tokenizer; raises ``ModelError`` with transformers' reason."""
        run_in_child(
            "fastserve_text.gguf", {"file": file, "folder": folder}, threads_per_process(), imports=PRELOAD_MODULES
        )


def convert_in_process(file: str, folder: str, events: str) -> None:
    """Convert in this process; ``events`` is not used."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, target = Path(file), Path(folder)
    given = {"gguf_file": source.name, "local_files_only": True}
    with suppress_library_output():
        try:
            read = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **given)
            tokenizer = AutoTokenizer.from_pretrained(source.parent, **given)
        except Exception as error:  # a dozen kinds, from a cut file to an architecture that is not known
            raise ModelError(f"{source} cannot be read: {str(error).strip().splitlines()[0]}") from error
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # the weights are floats by now
        model = AutoModelForCausalLM.from_config(config)  # what was read from a quantized file refuses to be saved
        model.load_state_dict(read.state_dict())
        model.generation_config = read.generation_config
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


if __name__ == "__main__":
    child_main(convert_in_process)

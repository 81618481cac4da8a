"""How texts become vectors besides the weights, in the files that sentence-transformers and servers of its models read.

A folder of sentence-transformers has a list of modules, ``modules.json``, and a folder of settings for each. FastServe
also keeps the settings in the model's config, so that folders that only an engine reads have them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from fastserve_core.artifacts import read_config, read_json, read_object, write_json
from fastserve_core.errors import ModelError

COMPONENT = "embedding"
"""The kind of the entry in the model's config."""
PARTS = "fastserve_parts"
"""The key of the entries of components in a config."""
MODULES, SETTINGS, LENGTHS = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
POOLING, NORMALIZE = "1_Pooling", "2_Normalize"
POOLINGS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "last": "pooling_mode_lasttoken",
}
"""The ways of pooling, with the key that switches each on in the files of sentence-transformers."""
QUERY, DOCUMENT = "query", "document"


@dataclass(frozen=True)
class SentenceSettings:
    """The settings of a model.

    Attributes:
        pooling: How the vectors of the tokens become that of the text, one of ``POOLINGS``.
        normalize: Whether vectors have the length 1.
        prompts: Texts that are put before an input, by name.
        default_prompt: The name of the prompt of an input that names none; empty for no prompt.
        widths: The shorter lengths that the model was trained for, in descending order (Matryoshka).
    """

    pooling: str = "mean"
    normalize: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    widths: tuple[int, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the settings of a model folder; defaults for a model that was not trained for vectors.

        Raises:
            ModelError: The model has a module or a way of pooling that is not supported.
        """
        for entry in read_config(folder).get(PARTS) or ():
            if entry["kind"] == COMPONENT:
                values = {name: value for name, value in entry.items() if name != "kind"}
                return cls(**{**values, "widths": tuple(values["widths"])})
        return cls._read_modules(folder) if (folder / MODULES).is_file() else cls()

    @classmethod
    def _read_modules(cls, folder: Path) -> Self:
        modules = {str(module["type"]).rpartition(".")[2]: module for module in read_json(folder / MODULES)}
        for kind in modules:
            if kind not in ("Transformer", "Pooling", "Normalize"):
                raise ModelError(
                    f"{folder / MODULES} has the module {kind}, which is not supported: only Transformer, Pooling and "
                    "Normalize are"
                )
        settings = read_object(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
        prompts = {str(name): str(text) for name, text in (settings.get("prompts") or {}).items() if text}
        default = settings.get("default_prompt_name") or ""
        pooling = modules.get("Pooling")
        return cls(
            pooling=_read_pooling(folder / pooling["path"] / "config.json", prompts) if pooling else "mean",
            normalize="Normalize" in modules,
            prompts=prompts,
            default_prompt=default if default in prompts else "",
        )

    def to_component(self) -> dict[str, Any]:
        """Return the entry of the model's config."""
        return {"kind": COMPONENT, **asdict(self), "widths": list(self.widths)}

    def write_component(self, folder: Path) -> None:
        """Write the settings into the config of a model folder."""
        config = read_config(folder)
        others = [entry for entry in config.get(PARTS) or () if entry["kind"] != COMPONENT]
        write_json(folder / "config.json", {**config, PARTS: [*others, self.to_component()]})

    def write_modules(self, folder: Path, width: int | None, max_length: int) -> None:
        """Write the files of sentence-transformers into a folder with weights.

        Args:
            folder: The folder.
            width: The length of the vectors.
            max_length: The number of tokens that a text is cut to.
        """
        names = ["", POOLING, *([NORMALIZE] if self.normalize else [])]
        kinds = ("Transformer", "Pooling", "Normalize")
        modules = [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(zip(names, kinds, strict=False))
        ]
        write_json(folder / MODULES, modules)
        (folder / POOLING).mkdir(exist_ok=True)
        switches = {key: name == self.pooling for name, key in POOLINGS.items()}
        write_json(folder / POOLING / "config.json", {"word_embedding_dimension": width, **switches})
        write_json(folder / LENGTHS, {"max_seq_length": max_length, "do_lower_case": False})
        described = {"prompts": dict(self.prompts), "default_prompt_name": self.default_prompt or None}
        write_json(folder / SETTINGS, {**described, "similarity_fn_name": "cosine"})


def _read_pooling(path: Path, prompts: Mapping[str, str]) -> str:
    """Return the way of pooling of a file of sentence-transformers."""
    config = read_object(path)
    mode = config.get("pooling_mode")
    chosen = [key.removeprefix("pooling_mode_") for key, value in config.items() if value is True and "_mode_" in key]
    if mode is not None:
        chosen = [mode] if isinstance(mode, str) else list(mode)
    names = {key.removeprefix("pooling_mode_"): name for name, key in POOLINGS.items()} | {
        name: name for name in POOLINGS
    }
    known = [names.get(name) for name in chosen]
    if len(known) != 1 or known[0] is None:
        raise ModelError(
            f"{path} pools by {' and '.join(chosen) or 'nothing'}, which is not supported: one of "
            f"{', '.join(POOLINGS)} is"
        )
    if prompts and config.get("include_prompt") is False:
        raise ModelError(f"{path} leaves the prompts out of pooling (include_prompt), which is not supported")
    return known[0]

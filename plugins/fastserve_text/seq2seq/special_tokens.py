"""The tokens that begin, end and pad a target, and the positions of both sides, by a model's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import count_positions, read_config, read_object
from fastserve_core.errors import ModelError
from fastserve_text.tokenization import token_id

if TYPE_CHECKING:
    from tokenizers import Tokenizer

COMPOSED = "encoder-decoder"
"""The ``model_type`` of two models of transformers, an encoder and a decoder with attention to it."""


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids: the decoder's first input, the end of a target, and padding."""

    start: int
    end: int
    pad: int

    def as_settings(self) -> dict[str, int]:
        """Return them under the names of transformers' configs."""
        return {"decoder_start_token_id": self.start, "eos_token_id": self.end, "pad_token_id": self.pad}


def read_special_tokens(folder: Path, tokenizer: Tokenizer) -> SpecialTokens:
    """Return the special tokens of an encoder-decoder, or of an encoder that becomes a half of one.

    Raises:
        ModelError: The folder does not name one of them.
    """
    config = read_config(folder)
    path = folder / "generation_config.json"
    known = config | (config.get("decoder") or {} if is_composed(config) else {})
    known |= {name: value for name, value in (read_object(path) if path.is_file() else {}).items() if value is not None}
    known |= {name: value for name, value in config.items() if value is not None}
    if not config.get("is_encoder_decoder") and not is_composed(config):
        names = {"start": "cls_token", "end": "sep_token", "pad": "pad_token"}
        found: dict[str, Any] = {name: token_id(folder, tokenizer, token) for name, token in names.items()}
    else:
        end = known.get("eos_token_id")
        found = {
            "start": known.get("decoder_start_token_id", known.get("bos_token_id")),
            "end": end[0] if isinstance(end, list) and end else end,
            "pad": known.get("pad_token_id"),
        }
    settings = {"start": "decoder_start_token_id", "end": "eos_token_id", "pad": "pad_token_id"}
    missing = [settings[name] for name, value in found.items() if not isinstance(value, int)]
    if missing:
        raise ModelError(
            f"{folder} names no {' and no '.join(missing)}: set the token ids in its config.json, with which the model "
            "was trained"
        )
    return SpecialTokens(**found)


def is_composed(config: Mapping[str, Any]) -> bool:
    """Return whether a config is that of a model of two models."""
    return config.get("model_type") == COMPOSED


def read_positions(folder: Path) -> tuple[int | None, int | None]:
    """Return the numbers of positions of source and target; ``None`` if there is no bound."""
    config = read_config(folder)
    if is_composed(config):
        source, target = config.get("encoder") or {}, config.get("decoder") or {}
        return count_positions(source), count_positions(target)
    return count_positions(config), count_positions(config)

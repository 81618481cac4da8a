"""The torch model: an encoder-decoder of a folder, or two copies of an encoder with new attention between them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import list_weight_files, read_config
from fastserve_core.errors import ModelError
from fastserve_core.models import load_for_task
from fastserve_text.model_factory import build_and_describe
from fastserve_text.seq2seq.special_tokens import SpecialTokens, is_composed

if TYPE_CHECKING:
    from torch import nn

HEAD = "ForSeq2SeqLM"


def check_kind(folder: Path, name: str) -> None:
    """Check that a folder's model is an encoder-decoder, or an encoder that can become one.

    Raises:
        ModelError: It is neither.
    """
    from transformers.models.auto import modeling_auto

    config = read_config(folder)
    if config.get("is_encoder_decoder") or is_composed(config):
        return
    kind = config.get("model_type")
    decoders = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if kind not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind not in decoders:
        hint = ", but a decoder, which continues texts" if kind in decoders else ""
        raise ModelError(
            f"{folder} is a {kind} model, which is no encoder with a decoder{hint}; {name} takes models such as T5 and "
            "BART, and encoders such as BERT, of which two become one"
        )


def build_model(folder: Path, tokens: SpecialTokens) -> tuple[nn.Module, str]:
    """Return the folder's model and a line on new weights; they follow torch's seed.

    Raises:
        ModelError: The weights do not fit the config, or transformers cannot build the model.
    """
    config = read_config(folder)
    if is_composed(config):
        model, report = _load_composed(folder), ""
    elif config.get("is_encoder_decoder"):
        model, report = build_and_describe(folder, HEAD, [])
    else:
        model, report = _compose(folder)
    _set_tokens(model, tokens)
    for name, parameter in model.named_parameters():
        if ".pooler." in name:  # a classifier's, which transformers loads and generation does not use
            parameter.requires_grad_(False)
    return model, report


def _load_composed(folder: Path) -> Any:
    from transformers import EncoderDecoderConfig, EncoderDecoderModel

    if not list_weight_files(folder):
        return EncoderDecoderModel(EncoderDecoderConfig.from_pretrained(folder, attn_implementation="eager"))
    loaded = load_for_task(EncoderDecoderModel, folder, attn_implementation="eager")
    if loaded.new:
        raise ModelError(f"{folder} lacks weights of its model: {', '.join(sorted(loaded.new)[:4])}")
    return loaded.model


def _compose(folder: Path) -> tuple[Any, str]:
    """Start an encoder-decoder from two copies of an encoder (Rothe et al. 2020)."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, EncoderDecoderModel

    changes = {"is_decoder": True, "add_cross_attention": True, "tie_word_embeddings": True}
    eager = {"attn_implementation": "eager"}
    decoder = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, **changes), **eager)
    if not list_weight_files(folder):
        encoder = AutoModel.from_config(AutoConfig.from_pretrained(folder), **eager)
        return EncoderDecoderModel(encoder=encoder, decoder=decoder), ""
    loaded = load_for_task(AutoModelForMaskedLM, folder, **eager)
    absent, unused = decoder.load_state_dict(loaded.model.state_dict(), strict=False)
    if unused:
        raise ModelError(f"{folder} has weights that a decoder of its type has not: {', '.join(unused[:4])}")
    decoder.tie_weights()
    model = EncoderDecoderModel(encoder=load_for_task(AutoModel, folder, **eager).model, decoder=decoder)
    return model, (
        f"two copies of the encoder, the second as a decoder; {len({*absent, *loaded.new})} weights are new: its "
        f"attention to the first{' and its head' if loaded.has_new_head else ''}"
    )


def _set_tokens(model: Any, tokens: SpecialTokens) -> None:
    """Write the special tokens into the configs, from which engines read them.

    The other settings of generation that a checkpoint brings, such as beams and a minimum length, are left out: the
    task's options decide.
    """
    from transformers import GenerationConfig

    values = tokens.as_settings()
    for name, value in values.items():
        setattr(model.config, name, value)
    if is_composed(model.config.to_dict()):
        model.config.vocab_size = model.config.decoder.vocab_size
    model.generation_config = GenerationConfig(**values)

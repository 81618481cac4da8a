"""Tiny models of 24 families, with random weights, made from configs of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
WIDTH, HEADS, NEURONS, POSITIONS = 64, 4, 64, 64


def sizes(**entries: Any) -> dict[str, Any]:
    """Entries of a config."""
    return entries


def config_sizes(layers: int = 2) -> dict[str, dict[str, Any]]:
    """Return the sizes of each family's config, by ``model_type``."""
    usual = sizes(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_hidden_layers=layers,
        intermediate_size=NEURONS,
        max_position_embeddings=POSITIONS,
        pad_token_id=PAD,
        bos_token_id=CLS,
        eos_token_id=SEP,
    )
    return _encoders(layers, usual) | _decoders(layers, usual) | _encoders_with_decoders(layers)


def _encoders(layers: int, encoder: dict[str, Any]) -> dict[str, dict[str, Any]]:
    relative = sizes(**encoder, relative_attention=True, pos_att_type=["c2p", "p2c"], type_vocab_size=0)
    return {
        "bert": encoder,
        "roberta": encoder,
        "xlm-roberta": encoder,
        "camembert": encoder,
        "electra": sizes(**encoder, embedding_size=WIDTH),
        "distilbert": sizes(
            dim=WIDTH,
            n_heads=HEADS,
            n_layers=layers,
            hidden_dim=NEURONS,
            max_position_embeddings=POSITIONS,
            pad_token_id=PAD,
        ),
        "albert": sizes(**encoder, embedding_size=WIDTH),
        "mpnet": encoder,
        "deberta": relative,
        "deberta-v2": sizes(**relative, position_buckets=16, share_att_key=True, norm_rel_ebd="layer_norm"),
        "modernbert": sizes(
            **encoder, global_attn_every_n_layers=2, local_attention=16, cls_token_id=CLS, sep_token_id=SEP
        ),
        "xlnet": sizes(d_model=WIDTH, n_head=HEADS, n_layer=layers, d_inner=NEURONS, pad_token_id=PAD),
        "funnel": sizes(
            d_model=WIDTH,
            n_head=HEADS,
            d_head=WIDTH // HEADS,
            d_inner=NEURONS,
            block_sizes=[1] * layers,
            num_decoder_layers=1,
            pad_token_id=PAD,
        ),
        "fnet": encoder,
        "longformer": sizes(**encoder, attention_window=[8] * layers),
        "big_bird": sizes(**encoder, attention_type="original_full"),
    }


def _decoders(layers: int, usual: dict[str, Any]) -> dict[str, dict[str, Any]]:
    decoder = sizes(
        **{**usual, "pad_token_id": None},
        num_key_value_heads=2,
        head_dim=WIDTH // HEADS,
        tie_word_embeddings=False,
    )
    return {
        "gpt2": sizes(
            n_embd=WIDTH,
            n_head=HEADS,
            n_layer=layers,
            n_inner=NEURONS,
            n_positions=POSITIONS,
            bos_token_id=CLS,
            eos_token_id=SEP,
        ),
        "llama": decoder,
        "mistral": sizes(**decoder, sliding_window=16),
        "gemma": decoder,
        "qwen2": decoder,
        "opt": sizes(
            hidden_size=WIDTH,
            num_attention_heads=HEADS,
            num_hidden_layers=layers,
            ffn_dim=NEURONS,
            word_embed_proj_dim=WIDTH,
            max_position_embeddings=POSITIONS,
            pad_token_id=PAD,
            bos_token_id=CLS,
            eos_token_id=SEP,
        ),
    }


def _encoders_with_decoders(layers: int) -> dict[str, dict[str, Any]]:
    return {
        "t5": sizes(
            d_model=WIDTH,
            d_kv=WIDTH // HEADS,
            d_ff=NEURONS,
            num_layers=layers,
            num_heads=HEADS,
            pad_token_id=PAD,
            eos_token_id=SEP,
            decoder_start_token_id=PAD,
        ),
        "bart": sizes(
            d_model=WIDTH,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_ffn_dim=NEURONS,
            decoder_ffn_dim=NEURONS,
            encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS,
            max_position_embeddings=POSITIONS,
            pad_token_id=PAD,
            bos_token_id=CLS,
            eos_token_id=SEP,
            decoder_start_token_id=SEP,
            forced_eos_token_id=SEP,
        ),
    }


FAMILIES = tuple(config_sizes())


def make_model(
    family: str,
    folder: Path,
    head: str,
    words: Iterable[str],
    labels: Sequence[str] = (),
    layers: int = 2,
    **changes: Any,
) -> Path:
    """Write a tiny model with random weights and a tokenizer of words into a folder, and return the folder.

    Args:
        family: The ``model_type``.
        folder: The folder.
        head: The name of the auto class without ``AutoModel``, such as ``ForSequenceClassification``.
        words: The words of the vocabulary.
        labels: The labels of a classifier.
        layers: The number of layers.
        changes: Further entries of the config.
    """
    import torch
    import transformers

    vocabulary = write_tokenizer(folder, words)
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    config = transformers.AutoConfig.for_model(
        family, **{**config_sizes(layers)[family], "vocab_size": vocabulary, **(names if labels else {}), **changes}
    )
    torch.manual_seed(0)
    getattr(transformers, f"AutoModel{head}").from_config(config).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path, words: Iterable[str]) -> int:
    """Write a tokenizer of whole words, as BERT's lays out texts and pairs; return the size of its vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **dict(zip(names, SPECIAL_TOKENS, strict=True))}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return len(vocabulary)

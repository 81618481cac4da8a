"""Hugging Face models with a task's head, and models and tokenizers from scratch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import read_json, write_json
from fastserve_core.errors import ModelError, OptionError, did_you_mean
from fastserve_core.models import load_pretrained

if TYPE_CHECKING:
    from torch import nn

    from fastserve_core.config import ModelSpec

SPECIAL_TOKENS = {"bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "gpt2": ["<|endoftext|>"]}
MIN_FREQUENCY = 2


def build_model(folder: Path, head: str, labels: Sequence[str]) -> nn.Module:
    """The folder's model with the head; new weights where the folder has none (they follow torch's seed).

    Raises ``ModelError`` when transformers has no such head for the model, or cannot read the weights.
    """
    import transformers

    kind = getattr(transformers, "AutoModel" + head)
    naming: dict[str, Any] = {}
    if labels:
        by_number = dict(enumerate(labels))
        naming = {"id2label": by_number, "label2id": {label: number for number, label in by_number.items()}}
    try:
        if not any(folder.glob("*.safetensors")):
            config = transformers.AutoConfig.from_pretrained(folder, **naming)
            return kind.from_config(config)  # type: ignore[no-any-return]
        model: nn.Module = load_pretrained(
            kind, folder, **naming, ignore_mismatched_sizes=True, attn_implementation="eager"
        )
        return model
    except (ValueError, KeyError, OSError) as error:
        if "auto_map" in read_json(folder / "config.json"):
            raise ModelError(
                f"{folder} brings its own Python code, which is never run; use a model that transformers itself has"
            ) from error
        raise ModelError(f"{folder} cannot be loaded as a model for {head[3:]}: {error}") from error


def write_scratch(spec: ModelSpec, texts: Iterable[str], folder: Path, head: str) -> None:
    """The config of an untrained model, and a tokenizer of its kind learnt from the texts, which are read twice."""
    makers = {"bert": _bert, "gpt2": _gpt2}
    if spec.name not in makers:
        raise OptionError(f"no model from scratch is called '{spec.name}'{did_you_mean(spec.name, makers)}")
    if isinstance(texts, Iterator):  # which could be read once; rows of a split are read from the disk each time
        texts = list(texts)
    if next(iter(texts), None) is None:
        raise ModelError("a tokenizer cannot be learnt from no texts")
    tokenizer = _train_tokenizer(spec, texts)
    config = makers[spec.name](spec, tokenizer.get_vocab_size())
    config["architectures"] = [config.pop("prefix") + head]
    tokenizer.save(str(folder / "tokenizer.json"))
    special = SPECIAL_TOKENS[spec.name]
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=False))
    if spec.name == "gpt2":
        names = dict.fromkeys(("pad_token", "unk_token", "bos_token", "eos_token"), special[0])
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": spec.max_positions, **names},
    )
    write_json(folder / "config.json", config)


def _train_tokenizer(spec: ModelSpec, texts: Iterable[str]) -> Any:
    """WordPiece for BERT (Devlin et al. 2018), byte-level BPE for GPT-2 (Radford et al. 2019).

    BERT's takes every Chinese character as a word; the rarest, beyond three quarters of the vocabulary, are
    unknown to it.
    """
    from tokenizers.implementations import BertWordPieceTokenizer, ByteLevelBPETokenizer
    from tokenizers.processors import BertProcessing

    wanted: dict[str, Any] = {"vocab_size": spec.vocab_size, "min_frequency": MIN_FREQUENCY, "show_progress": False}
    special = SPECIAL_TOKENS[spec.name]
    if spec.name == "gpt2":
        bytewise = ByteLevelBPETokenizer()
        bytewise.train_from_iterator(texts, special_tokens=special, **wanted)
        return bytewise
    # by default only 1000 different characters are kept, fewer than Chinese writes with
    learner = BertWordPieceTokenizer()
    alphabet = spec.vocab_size * 3 // 4
    first = [*special, *_inner_characters(learner, texts, alphabet)]
    learner.train_from_iterator(texts, special_tokens=first, limit_alphabet=alphabet, **wanted)
    pieces = BertWordPieceTokenizer(vocab=learner.get_vocab())
    ends = [(token, pieces.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    pieces.post_processor = BertProcessing(*ends)
    return pieces


def _inner_characters(tokenizer: Any, texts: Iterable[str], most: int) -> list[str]:
    """The commonest characters that follow another in a word, as WordPiece writes them, in their order.

    The library numbers them as it meets them in a table of words that has another order in each process, and breaks
    ties by those numbers: named beforehand, equal texts give equal tokenizers.
    """
    found: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
            found.update(word[1:])
    kept = sorted(found, key=lambda one: (-found[one], one))[:most]
    return [f"##{one}" for one in sorted(kept)]


def _bert(spec: ModelSpec, vocab_size: int) -> dict[str, Any]:
    return {
        "prefix": "Bert",
        "model_type": "bert",
        "vocab_size": vocab_size,
        "hidden_size": spec.dim,
        "num_attention_heads": spec.num_heads,
        "num_hidden_layers": spec.num_layers,
        "intermediate_size": spec.hidden_size,
        "max_position_embeddings": spec.max_positions,
        "pad_token_id": 0,
    }


def _gpt2(spec: ModelSpec, vocab_size: int) -> dict[str, Any]:
    return {
        "prefix": "GPT2",
        "model_type": "gpt2",
        "vocab_size": vocab_size,
        "n_embd": spec.dim,
        "n_head": spec.num_heads,
        "n_layer": spec.num_layers,
        "n_inner": spec.hidden_size,
        "n_positions": spec.max_positions,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }

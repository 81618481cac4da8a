"""Hugging Face models with a task's head, and models and tokenizers from scratch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import is_artifact, list_weight_files, load_artifact, read_config, write_json
from fastserve_core.errors import FastServeError, ModelError, OptionError, did_you_mean
from fastserve_core.models import load_for_task, own_code_error
from fastserve_text.heads import describe_head, match_labels, name_labels, reorder_head
from fastserve_text.tokenization import load_tokenizer, pad_id

if TYPE_CHECKING:
    from torch import nn

    from fastserve_core.config import ModelSpec

SPECIAL_TOKENS = {"bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "gpt2": ["<|endoftext|>"]}
MIN_FREQUENCY = 2


def build_model(folder: Path, head: str, labels: Sequence[str]) -> nn.Module:
    """Return the folder's model with the head; see ``build_and_describe``."""
    return build_and_describe(folder, head, labels)[0]


def build_and_describe(folder: Path, head: str, labels: Sequence[str]) -> tuple[nn.Module, str]:
    """Build the folder's model with the head, whose rows are in the order of the labels.

    Weights that the folder does not have are random and follow torch's seed: all of a model from scratch, else only
    a head or a pooler.

    Args:
        folder: The model's folder.
        head: How the name of the model's class in transformers ends.
        labels: The labels; empty for a head without.

    Returns:
        The model, and a line on its head.

    Raises:
        ModelError: transformers has no such head for the model, or the weights do not fit its config.
    """
    import transformers

    kind = getattr(transformers, "AutoModel" + head)
    naming = name_labels(labels) if labels else {}
    if not list_weight_files(folder):
        return _init_model(kind, folder, naming), ""
    config = _load_config(folder)
    if type(config) not in kind._model_mapping:
        raise ModelError(
            f"{folder} is a model of the type {config.model_type}, which transformers has no {head[3:]} for"
        )
    is_own_head = (config.architectures or [head])[0].endswith(head)
    own = _read_labels(folder, config) if labels else []
    if own == list(labels) or not is_own_head:
        loaded = load_for_task(kind, folder, attn_implementation="eager", **naming)
        model, rows = loaded.model, [None if not is_own_head else row for row in range(len(labels))]
        if labels and not is_own_head and not loaded.has_new_head:  # the head of another task, of the same shape
            model = reorder_head(model, labels, rows)
    else:
        loaded = load_for_task(kind, folder, attn_implementation="eager")
        is_regression = config.problem_type == "regression" or config.num_labels == 1
        rows = [None] * len(labels) if is_regression else match_labels(own, labels)
        model = reorder_head(loaded.model, labels, rows)
    if labels:
        model.config.problem_type = None  # that of the task, which may differ from the checkpoint's
        _set_padding(model.config, folder)
    report = [describe_head(own, labels, rows)] if labels and not loaded.has_new_head else []
    report += (
        [f"new weights, which the checkpoint does not have: {', '.join(sorted(loaded.new))}"] if loaded.new else []
    )
    return model, "; ".join(report)


def _read_labels(folder: Path, config: Any) -> list[str]:
    """Return the labels of the rows of a folder's head; in an artifact they are those of its manifest."""
    labels = load_artifact(folder).manifest.labels if is_artifact(folder) else ()
    if len(labels) == config.num_labels:
        return list(labels)
    return [str(config.id2label[row]) for row in range(config.num_labels)]


def _set_padding(config: Any, folder: Path) -> None:
    """Name the padding in the config of a classifier, if it does not; decoders find the end of a text by it."""
    if config.pad_token_id is None or config.pad_token_id < 0:
        config.pad_token_id = pad_id(folder, load_tokenizer(folder, max_length=1))


def _init_model(kind: Any, folder: Path, naming: Mapping[str, Any]) -> nn.Module:
    """Return a model from scratch."""
    try:
        model: nn.Module = kind.from_config(_load_config(folder, **naming))
        if naming:
            _set_padding(model.config, folder)
    except FastServeError:
        raise
    except Exception as error:
        raise ModelError(f"{folder} cannot be built as {kind.__name__}: {error}") from error
    return model


def _load_config(folder: Path, **changes: Any) -> Any:
    """Return the folder's config as an object of transformers."""
    import transformers

    read_config(folder)
    try:
        return transformers.AutoConfig.from_pretrained(folder, **changes)
    except Exception as error:  # a dozen kinds, by the entry that is wrong
        if "auto_map" in read_config(folder):
            raise own_code_error(folder) from error
        raise ModelError(f"{folder / 'config.json'} cannot be used: {error}") from error


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

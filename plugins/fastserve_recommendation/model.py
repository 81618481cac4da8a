"""Models of item sequences: ELECTRA's layers, causal or not, whose last vector is compared with the item table.

SASRec (Kang & McAuley 2018) is causal and learns the next item at every position; BERT4Rec (Sun et al. 2019) sees both
sides and learns hidden items. A folder of either is one of transformers' ``ElectraModel``; the component ``next_item``
in its config gives it the scores of items.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import MaskedLMOutput

from fastserve_core.artifacts import list_weight_files, write_json
from fastserve_core.config import ModelSpec
from fastserve_core.errors import ModelError, OptionError, did_you_mean
from fastserve_core.models import load_pretrained
from fastserve_core.tasks import IGNORE_INDEX
from fastserve_recommendation.sampled_softmax import SampledSoftmax, sample_candidates
from fastserve_recommendation.text_table import attach_texts
from fastserve_recommendation.text_vectors import load_vectors
from fastserve_recommendation.vocabulary import FIRST_ITEM, PADDING, Vocabulary

COMPONENT = "next_item"
IS_CAUSAL = {"sasrec": True, "bert4rec": False}
"""The models from scratch by name."""


class ElectraModel(transformers.ElectraModel):  # type: ignore[misc]
    """transformers' model with the scores of all items at the last position; it is saved under the same name.

    Attributes:
        negatives: The number of uniform draws of a sampled loss; 0 for all items.
        shares: The share of each item that the training data has; empty outside a training.
    """

    negatives: int = 0
    shares: Tensor = torch.empty(0)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> MaskedLMOutput:
        """Return the loss of labelled positions while training, else the scores of the last position.

        Args:
            input_ids: Numbers of items, padded on the right, of shape (batch, length).
            attention_mask: 1 for items, of the same shape; by default there is no padding.
            labels: The number of the item to predict at each position, or ``IGNORE_INDEX``.

        Returns:
            ``loss``, the sum over the labelled positions, or ``logits`` of shape (batch, rows of the item table).
        """
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        cache = {"use_cache": False} if self.config.is_decoder else {}
        hidden = super().forward(input_ids, attention_mask=attention_mask, **cache).last_hidden_state
        if labels is not None and self.training:
            is_labelled = labels != IGNORE_INDEX
            return MaskedLMOutput(loss=self._loss(hidden[is_labelled], labels[is_labelled]))
        last = attention_mask.sum(1, keepdim=True) - 1
        query = hidden.gather(1, last.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])).squeeze(1)
        # in 16 bits, many of the scores of all items would be equal
        return MaskedLMOutput(logits=nn.functional.linear(query.float(), self.get_input_embeddings().weight.float()))

    def _loss(self, queries: Tensor, labels: Tensor) -> Tensor:
        table, targets, log_chances = self.get_input_embeddings(), labels - FIRST_ITEM, None
        candidates = torch.arange(len(self.shares))
        if 0 < self.negatives < len(candidates):
            candidates, targets, log_chances = sample_candidates(targets, self.shares, self.negatives)
        items = table(candidates + FIRST_ITEM).to(queries.dtype)
        loss: Tensor = SampledSoftmax.apply(queries, items, targets, log_chances)  # type: ignore[no-untyped-call]
        return loss


def restore(model: Any, folder: Path, component: Mapping[str, Any]) -> Any:
    """Give a loaded model of transformers the scores of items.

    Args:
        model: The model, changed in place.
        folder: The folder that it was loaded from.
        component: The entry of the config.

    Raises:
        ModelError: The model is of another class.
    """
    if type(model) is not transformers.ElectraModel:
        raise ModelError(f"{folder}: the component {COMPONENT} is one of ElectraModel, not of {type(model).__name__}")
    model.__class__ = ElectraModel
    return model


def build_model(folder: Path, negatives: int, dropout: float, text_only: float) -> nn.Module:
    """Return the model of a folder, with random weights if it has none.

    Args:
        folder: The folder, with its vocabulary.
        negatives: The number of uniform draws of the loss while training.
        dropout: The dropout of layers and attention while training.
        text_only: The share of the items of a training step that are known by their texts alone.

    Raises:
        ModelError: The weights do not fit the config.
    """
    rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    if list_weight_files(folder):
        model = load_pretrained(transformers.ElectraModel, folder, attn_implementation="eager", **rates)
    else:
        config = transformers.AutoConfig.from_pretrained(folder, **rates)
        model = restore(transformers.AutoModel.from_config(config, attn_implementation="eager"), folder, {})
    shares = torch.from_numpy(Vocabulary.load(folder).shares)
    if (vectors := load_vectors(folder)) is not None:
        attach_texts(model, torch.from_numpy(vectors), shares > 0, text_only)
    model.negatives, model.shares = negatives, shares[shares > 0]
    return model  # type: ignore[no-any-return]


def write_untrained(spec: ModelSpec, vocabulary: Vocabulary, folder: Path) -> None:
    """Write the config and the vocabulary of a model from scratch into a folder.

    Raises:
        OptionError: No model from scratch has that name.
    """
    if spec.name not in IS_CAUSAL:
        names, hint = " or ".join(f"model={name}" for name in IS_CAUSAL), did_you_mean(spec.name, IS_CAUSAL)
        raise OptionError(f"the task learns no model called '{spec.name}': choose {names}{hint}")
    vocabulary.save(folder)
    config = {
        "architectures": ["ElectraModel"],
        "model_type": "electra",
        "vocab_size": len(vocabulary) + FIRST_ITEM,
        "embedding_size": spec.dim,
        "hidden_size": spec.dim,
        "num_attention_heads": spec.num_heads,
        "num_hidden_layers": spec.num_layers,
        "intermediate_size": spec.hidden_size,
        "max_position_embeddings": spec.max_positions,
        "type_vocab_size": 1,
        "pad_token_id": PADDING,
        "is_decoder": IS_CAUSAL[spec.name],
        "fastserve_parts": [{"kind": COMPONENT}],
    }
    write_json(folder / "config.json", config)

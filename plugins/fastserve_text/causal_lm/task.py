"""The task: plain texts and conversations to tokens, logits to losses, new tokens to texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.artifacts import read_config, write_text
from fastserve_core.errors import DataError, ModelError, OptionError, did_you_mean
from fastserve_core.tasks import (
    IGNORE_INDEX,
    AnswerView,
    Arrays,
    BatchLoss,
    Column,
    DistillationTarget,
    Encoded,
    Encoder,
    LossOptions,
    MetricSpec,
    Row,
    Sample,
    log_softmax,
    object_schema,
)
from fastserve_text.base import TEXT, TextTask
from fastserve_text.causal_lm.batches import align_targets, collate_answers, collate_packed
from fastserve_text.causal_lm.conversations import (
    CONVERSATION_FORMS,
    is_conversation,
    normalize_conversation,
    select_form,
    split_instances,
)
from fastserve_text.causal_lm.encoding import ConversationEncoder
from fastserve_text.causal_lm.packing import PackedConversations, PackedSequences
from fastserve_text.causal_lm.preferences import (
    CANDIDATES,
    REFERENCE,
    SplitCandidates,
    add_reference,
    candidate_log_probabilities,
    identify,
    join_candidates,
    preference_loss,
    score_preferences,
)
from fastserve_text.chat_template import DEFAULT_TEMPLATE, TEMPLATE, ChatTemplate
from fastserve_text.losses import cross_entropy, next_tokens
from fastserve_text.text_codec import ChatTextCodec
from fastserve_text.tokenization import check_positions, encode_within, load_tokenizer, pad, pad_id, token_id

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastserve_core.tasks import Route

TOO_LONG = ("refuse", "cut")


@dataclass
class Options:
    """``max_length`` is in tokens; ``temperature`` 0 always takes the likeliest token.

    With ``pack`` texts are not cut there: joined, they fill blocks of that length. Conversations are put together in
    such blocks, and do not attend to each other. ``too_long`` decides on longer conversations: ``refuse`` or ``cut``.
    With ``chat`` a text to answer is a user's message, rather than the beginning of a text. ``beta`` is that of direct
    preference optimization: how strongly the model is held to the one before the training.
    """

    max_length: int = 128
    pack: bool = False
    too_long: str = "refuse"
    chat: bool = False
    beta: float = 0.1
    max_new_tokens: int = 32
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise OptionError(f"task.max_length must be at least 4 tokens, not {self.max_length}")
        if self.too_long not in TOO_LONG:
            hint = did_you_mean(self.too_long, TOO_LONG)
            raise OptionError(f"task.too_long must be one of {', '.join(TOO_LONG)}, not '{self.too_long}'{hint}")
        if not self.beta > 0:
            raise OptionError(f"task.beta must be above 0, not {self.beta}")
        if self.max_new_tokens < 1:
            raise OptionError(f"task.max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.temperature < 0:
            raise OptionError(f"task.temperature must be 0 or more, not {self.temperature}")


class CausalLM(TextTask):
    """Continues a text, or answers a conversation, with a causal language model."""

    name: ClassVar[str] = "causal_lm"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (
        TEXT,
        *{
            column.name: replace(column, is_label=False, required=False)
            for form in CONVERSATION_FORMS
            for column in form
        }.values(),
    )
    not_in_rows: ClassVar[frozenset[str]] = frozenset(
        {"max_length", "too_long", "chat", "beta", "max_new_tokens", "temperature"}
    )
    head: ClassVar[str] = "ForCausalLM"
    first_model: ClassVar[str] = "smollm2"
    untrained_model: ClassVar[str] = "gpt2"
    is_generative: ClassVar[bool] = True
    score_batch_size: ClassVar[int] = 4
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "perplexity": MetricSpec(higher_is_better=False),
        "loss": MetricSpec(higher_is_better=False),
        "preference_accuracy": MetricSpec(unit="%", is_share_of_rows=True),
    }
    target_names: ClassVar[tuple[str, ...]] = ("labels", CANDIDATES, REFERENCE)
    model_computes_loss: ClassVar[bool] = False
    loss_options: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(),)
    answer_view: ClassVar[AnswerView] = AnswerView(headline="text")
    request_parameters: ClassVar[Mapping[str, str]] = {"max_new_tokens": "max_new_tokens", "temperature": "temperature"}

    def __init__(self, options: Any, labels: Sequence[str] = ()) -> None:
        super().__init__(options, labels)
        self.reference: dict[bytes, tuple[float, float]] = {}
        """The log-probabilities of both answers of each training row, before the training."""
        self.has_conversations = False
        """Whether rows that were encoded are conversations with answers."""

    # -- rows ----------------------------------------------------------------------------------------

    @property
    @override
    def request_columns(self) -> tuple[Column, ...]:
        return (TEXT,)

    @override
    def split_record(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return split_instances(values)

    @override
    def select_columns(self, names: Sequence[str]) -> Sequence[Column]:
        return select_form(names)

    @override
    def check(self, row: Row) -> str | None:
        if not is_conversation(row):
            return super().check(row)
        try:
            normalize_conversation(row)
        except ValueError as error:
            return str(error)
        return None

    @override
    def read_input(self, value: Any) -> Row:
        if not (isinstance(value, Mapping) and is_conversation(value)):
            row = super().read_input(value)
            return {"messages": [{"role": "user", "content": row["text"]}]} if self.options.chat else row
        row = dict(value)
        try:
            normalize_conversation(row, has_answer=False)
        except ValueError as error:
            raise DataError(f"an input cannot be used: {error}") from error
        return row

    @override
    def make_rows(self, inputs: Sequence[Any], targets: Sequence[Any] | None = None) -> list[Row]:
        rows = [dict(value) if isinstance(value, Mapping) else value for value in inputs]
        return [row if isinstance(row, dict) and is_conversation(row) else self.read_input(row) for row in rows]

    @override
    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        for row in rows:
            yield from [message["content"] for message in row["messages"]] if "messages" in row else [row["text"]]

    # -- the model and its batches -------------------------------------------------------------------

    @override
    def encoder(self, folder: Path) -> Encoder:
        self.tokenizer = tokenizer = load_tokenizer(folder, self.options.max_length)
        self.padding["input_ids"] = pad_id(folder, tokenizer)
        if self.options.pack:
            self._prepare_packing(folder)
        untruncated = load_tokenizer(folder, 1)
        untruncated.no_truncation()
        conversations = ConversationEncoder(folder, untruncated, self.options.max_length, self.options.too_long)

        def encode(rows: Sequence[Row]) -> list[Encoded]:
            is_chat = ["messages" in row for row in rows]
            chats = iter(self._encode_chats(conversations, [row for row in rows if "messages" in row]))
            texts = iter(self._encode_texts([row["text"] for row in rows if "messages" not in row]))
            encoded = [next(chats if chat else texts) for chat in is_chat]
            self.has_conversations |= any(chat and one.target for chat, one in zip(is_chat, encoded, strict=True))
            return encoded

        return encode

    def _encode_chats(self, conversations: ConversationEncoder, rows: Sequence[Row]) -> list[Encoded]:
        encoded = conversations.encode(rows) if rows else []
        pairs = [number for number, row in enumerate(rows) if "rejected" in row]
        answers = [{"role": "assistant", "content": rows[number]["rejected"]} for number in pairs]
        others = [
            {"messages": [*rows[number]["messages"][:-1], answer]}
            for number, answer in zip(pairs, answers, strict=True)
        ]
        for number, rejected in zip(pairs, conversations.encode(others) if others else (), strict=True):
            encoded[number] = join_candidates(encoded[number], rejected)
        return encoded

    def _encode_texts(self, texts: Sequence[str]) -> list[Encoded]:
        length = self.options.max_length
        if self.options.pack:  # they fill several blocks
            encodings = [(one, len(one.ids) > length) for one in self.tokenizer.encode_batch(texts)]
        else:
            encodings = encode_within(self.tokenizer.encode_batch, texts, length)
        encoded = []
        for one, truncated in encodings:
            if len(one.ids) == 0:
                raise DataError("an input cannot be used: it has no tokens that the model knows")
            inputs = {"input_ids": one.ids, "attention_mask": one.attention_mask}
            target = None if self.options.pack else list(one.ids)
            encoded.append(Encoded(inputs, target, truncated=truncated))
        return encoded

    @override
    def write_files(self, folder: Path) -> None:
        if self.has_conversations and ChatTemplate(folder, DEFAULT_TEMPLATE).is_default:
            write_text(folder / TEMPLATE, DEFAULT_TEMPLATE)

    @override
    def routes(self, folder: Path) -> Sequence[Route]:
        from fastserve_text.openai_routes import ChatCompletions, Completions

        return Completions(), ChatCompletions()

    @override
    def accepts_model(self, architecture: str) -> bool:
        return architecture.endswith((self.head, "LMHeadModel"))  # as in GPT2LMHeadModel

    @override
    def check_model(self, folder: Path) -> None:
        config = read_config(folder)
        if config.get("is_encoder_decoder"):
            raise ModelError(
                f"{folder} is a {config.get('model_type')} model, an encoder with a decoder; {self.name} takes "
                "decoders, such as GPT-2 and Llama"
            )
        super().check_model(folder)

    @override
    def build(self, folder: Path) -> nn.Module:
        model = super().build(folder)
        if not _is_causal(model):
            raise ModelError(
                f"the {type(model).__name__} in {folder} reads the tokens behind a position too, so it cannot learn to "
                f"predict them: {self.name} takes decoders, such as GPT-2 and Llama. An encoder becomes one with "
                "is_decoder=true in its config.json"
            )
        return model

    @override
    def writer(self, folder: Path) -> ChatTextCodec:
        return ChatTextCodec(folder)

    def _prepare_packing(self, folder: Path) -> None:
        check_positions(folder, self.options.max_length)
        self.tokenizer.no_truncation()
        end_of_text = token_id(folder, self.tokenizer, "eos_token")
        if end_of_text is None:
            raise ModelError(
                f"the tokenizer of {folder} has no end-of-text token (eos_token), which task.pack=true needs"
            )
        self.end_of_text = end_of_text

    @override
    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        if len(encoded) and CANDIDATES in encoded[0].inputs:
            return SplitCandidates(encoded) if seed == "validation" else encoded
        if not self.options.pack or not len(encoded):
            return encoded
        if encoded[0].target is None:
            return PackedSequences(encoded, self.options.max_length, self.end_of_text, seed)
        # conversations do not see each other, so their scores are the same one by one
        return encoded if seed == "validation" else PackedConversations(encoded, self.options.max_length, seed)

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        if CANDIDATES in batch[0].inputs:
            return add_reference(collate_packed(batch, self.padding, CANDIDATES), batch, self.reference)
        if "segments" in batch[0].inputs:
            return collate_packed(batch, self.padding, "segments")
        return collate_answers(batch, self.padding) if targets else pad(batch, self.padding, targets=False)

    @override
    def collate_prompts(self, batch: Sequence[Encoded]) -> Arrays:
        # generation appends on the right; what is to be packed was not cut
        length = self.options.max_length
        prompts = [SplitCandidates([one])[0] if CANDIDATES in one.inputs else one for one in batch]
        cut = [Encoded({name: ids[:length] for name, ids in one.inputs.items()}) for one in prompts]
        return pad(cut, self.padding, targets=False, left=True)

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        if CANDIDATES in batch:
            return preference_loss(outputs["logits"], batch, self.options.beta)
        labels = next_tokens(batch["labels"])
        logits = outputs["logits"][:, -labels.shape[1] :]  # a model that cannot omit some computes all
        return cross_entropy(logits, labels, options)

    @override
    def counted_positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        return super().counted_positions({"labels": next_tokens(batch["labels"])})

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        answers = []
        for ids in outputs["ids"].tolist():
            while len(ids) > 1 and ids[-1] == ids[-2] == self.padding["input_ids"]:
                ids.pop()  # rows that ended before the longest one were filled up
            answers.append({"text": self.tokenizer.decode(ids, skip_special_tokens=True), "tokens": len(ids)})
        return answers

    @override
    def answer_schema(self) -> dict[str, Any]:
        return object_schema(text={"type": "string"}, tokens={"type": "integer", "minimum": 0})

    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        """Per row: the summed negative log-likelihood of its tokens that count, and their number."""
        found = []
        for logits, target in align_targets(outputs["logits"], batch):
            places = (target[1:] != IGNORE_INDEX).nonzero()[0]
            logs = log_softmax(logits[places])
            found.append((float(-logs[range(len(places)), target[places + 1]].sum()), len(places)))
        numbers = [one.decode_state for one in batch]
        return [(*pair, number) for pair, number in zip(found, numbers, strict=True)]

    @override
    def needs_reference(self, rows: Sequence[Encoded]) -> bool:
        return len(rows) > 0 and CANDIDATES in rows[0].inputs

    @override
    def reference_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        pairs = zip(outputs["logits"], batch, strict=True)
        return [(identify(row), candidate_log_probabilities(logits, row)) for logits, row in pairs]

    @override
    def fit_reference(self, statistics: Sequence[Any]) -> None:
        self.reference = dict(statistics)

    @override
    def list_samples(self, rows: Sequence[Row]) -> list[Sample]:
        spoken = [row["messages"] for row in rows if "messages" in row]
        return [
            Sample(messages[-2]["content"], messages[-1]["content"], {"messages": messages[:-1]}) for messages in spoken
        ]

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        pairs = [(number, -total) for total, _, number in statistics if number is not None]
        expected = [one for one in statistics if one[2] is None or one[2] % 2 == 0]  # not the rejected answers
        loss = sum(one[0] for one in expected) / max(1, sum(one[1] for one in expected))
        scores = {"loss": loss, "perplexity": math.exp(min(loss, 50.0))}
        return scores | ({"preference_accuracy": score_preferences(pairs)} if pairs else {})

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return scores.get("preference_accuracy", -scores["loss"])


def _is_causal(model: Any) -> bool:
    """Return whether the logits of a position stay the same when a later token changes."""
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad():
        first, second = (model(input_ids=torch.tensor([[1, 2, 3, last]])).logits[:, :-1] for last in (0, 4))
    model.train(was_training)
    return bool(torch.allclose(first, second))

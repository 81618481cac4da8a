"""The HTTP routes of embeddings: OpenAI's, and those of text-embeddings-inference. Imported by servers only."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fastserve_core.errors import DataError, did_you_mean
from fastserve_core.tasks import PredictionRoute, Route
from fastserve_text.embedding.schemas import (
    DecodeRequest,
    EmbeddingObject,
    Embeddings,
    EmbeddingsRequest,
    EmbedRequest,
    SimilarityRequest,
    SimpleToken,
    TokenizeRequest,
    Tokens,
    Usage,
    Vectors,
)
from fastserve_text.tokenization import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Predictions = Sequence[Mapping[str, Any]]


class OpenAIEmbeddings(PredictionRoute):
    """OpenAI's route."""

    path = "/v1/embeddings"
    summary = "Embed texts or token ids"
    request_type = EmbeddingsRequest
    response_type = Embeddings

    @override
    def inputs(self, body: EmbeddingsRequest) -> Sequence[Any]:
        return list_texts(body.input)

    @override
    def parameters(self, body: EmbeddingsRequest) -> Mapping[str, Any]:
        return {} if body.dimensions is None else {"dimensions": body.dimensions}

    @override
    def response(self, body: EmbeddingsRequest, predictions: Predictions, model: str) -> Embeddings:
        vectors = [prediction["embedding"] for prediction in predictions]
        found = map(encode_base64, vectors) if body.encoding_format == "base64" else vectors
        tokens = sum(prediction["tokens"] for prediction in predictions)
        objects = [EmbeddingObject(index, vector) for index, vector in enumerate(found)]
        return Embeddings(objects, model, Usage(tokens, tokens))


class Embed(PredictionRoute):
    """TEI's route."""

    path = "/embed"
    summary = "Embed texts"
    request_type = EmbedRequest
    response_type = Vectors

    @override
    def inputs(self, body: EmbedRequest) -> Sequence[Any]:
        return [with_prompt(text, body.prompt_name) for text in list_texts(body.inputs)]

    @override
    def parameters(self, body: EmbedRequest) -> Mapping[str, Any]:
        given = {"dimensions": body.dimensions, "normalize": body.normalize}
        return {name: value for name, value in given.items() if value is not None}

    @override
    def response(self, body: EmbedRequest, predictions: Predictions, model: str) -> Vectors:
        check_truncation(body.truncate, predictions)
        return [prediction["embedding"] for prediction in predictions]


class Similarity(PredictionRoute):
    """TEI's route for the cosine of one sentence with others."""

    path = "/similarity"
    summary = "Compare a sentence with others"
    request_type = SimilarityRequest
    response_type = list[float]

    @override
    def inputs(self, body: SimilarityRequest) -> Sequence[Any]:
        name = body.parameters.prompt_name if body.parameters else None
        sentences = [body.inputs.source_sentence, *body.inputs.sentences]
        return [with_prompt(sentence, name) for sentence in sentences]

    @override
    def parameters(self, body: SimilarityRequest) -> Mapping[str, Any]:
        return {"normalize": True}

    @override
    def response(self, body: SimilarityRequest, predictions: Predictions, model: str) -> list[float]:
        import numpy as np

        check_truncation(body.parameters.truncate if body.parameters else None, predictions)
        first, *others = np.asarray([prediction["embedding"] for prediction in predictions])
        found: list[float] = (np.asarray(others) @ first).tolist()
        return found


class TokenRoute(PredictionRoute):
    """The base of routes that need the tokenizer alone.

    Args:
        tokenizer: The tokenizer of the model, without truncation.
        prompts: The prompts of the model by name.
    """

    def __init__(self, tokenizer: Tokenizer, prompts: Mapping[str, str]) -> None:
        self.tokenizer, self.prompts = tokenizer, prompts

    @override
    def inputs(self, body: Any) -> Sequence[Any]:
        return ()


class Tokenize(TokenRoute):
    """TEI's route for the tokens of texts."""

    path = "/tokenize"
    summary = "Tokenize texts"
    request_type = TokenizeRequest
    response_type = Tokens

    @override
    def response(self, body: TokenizeRequest, predictions: Predictions, model: str) -> Tokens:
        prompt = find_prompt(body.prompt_name, self.prompts)
        texts = [prompt + text for text in ([body.inputs] if isinstance(body.inputs, str) else body.inputs)]
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=body.add_special_tokens)
        return [
            [
                SimpleToken(index, token, bool(special), *(() if special else place))
                for index, token, special, place in zip(
                    found.ids, found.tokens, found.special_tokens_mask, found.offsets, strict=True
                )
            ]
            for found in encodings
        ]


class Decode(TokenRoute):
    """TEI's route for the texts of tokens."""

    path = "/decode"
    summary = "Decode token ids"
    request_type = DecodeRequest
    response_type = list[str]

    @override
    def response(self, body: DecodeRequest, predictions: Predictions, model: str) -> list[str]:
        lists = list_texts(list(body.ids))
        largest = self.tokenizer.get_vocab_size()
        for token in (token for ids in lists for token in ids):
            if not 0 <= token < largest:
                raise DataError(f"the token {token} is not one of the vocabulary, which has {largest}")
        texts: list[str] = self.tokenizer.decode_batch(lists, skip_special_tokens=body.skip_special_tokens)
        return texts


def make_routes(folder: Path, prompts: Mapping[str, str]) -> list[Route]:
    """Return the routes of a model.

    Args:
        folder: The folder of the model.
        prompts: Its prompts by name.
    """
    tokenizer = load_tokenizer(folder, 1)
    tokenizer.no_truncation()
    return [OpenAIEmbeddings(), Embed(), Similarity(), Tokenize(tokenizer, prompts), Decode(tokenizer, prompts)]


def list_texts(given: Any) -> list[Any]:
    """Return the inputs of a field that has one text, token ids, or several of either.

    Raises:
        DataError: They are a mixture.
    """
    if isinstance(given, str):
        return [given]
    kinds = {type(element) for element in given}
    if len(kinds) > 1:
        raise DataError("the inputs must be texts, or tokens, or lists of tokens, not a mixture of them")
    return [given] if kinds == {int} else list(given)


def with_prompt(text: Any, name: str | None) -> Any:
    """Return an input with the name of its prompt."""
    if name is None:
        return text
    if not isinstance(text, str):
        raise DataError("a prompt goes with texts, not with token ids")
    return {"text": text, "prompt_name": name}


def find_prompt(name: str | None, prompts: Mapping[str, str]) -> str:
    """Return the prompt of a name; none without a name."""
    if name is None:
        return ""
    if name not in prompts:
        raise DataError(f"the model has no prompt '{name}'{did_you_mean(name, prompts)}")
    return prompts[name]


def check_truncation(truncate: bool | None, predictions: Predictions) -> None:
    """Raise ``DataError`` if a text was cut, and the request does not permit that."""
    if truncate is False and any(prediction.get("truncated") for prediction in predictions):
        raise DataError("an input is longer than the model reads: shorten it, or set 'truncate' to true")


def encode_base64(vector: Sequence[float]) -> str:
    """Return the bytes of little-endian fp32 numbers in base64."""
    import numpy as np

    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode("ascii")

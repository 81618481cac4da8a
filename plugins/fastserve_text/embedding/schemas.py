"""Requests and responses of the routes: those of OpenAI's API and of text-embeddings-inference (TEI)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Texts = str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
"""One or several texts, or the token ids of one or several."""


class EmbeddingsRequest(Struct, forbid_unknown_fields=True):
    """Body of ``/v1/embeddings``."""

    input: Texts
    model: str
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Positive | None = None
    user: str | None = None
    """Accepted for compatibility, and ignored."""


class EmbeddingObject(Struct):
    """One vector: numbers, or the bytes of little-endian fp32 numbers in base64."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class Usage(Struct):
    """Numbers of tokens."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct):
    """Answer of ``/v1/embeddings``."""

    data: list[EmbeddingObject]
    model: str
    usage: Usage
    object: Literal["list"] = "list"


class Truncation(Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields that TEI's requests share. Texts are cut on the right, unless ``truncate`` is false."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"truncation_direction"})

    model: str | None = None
    truncate: bool | None = None
    truncation_direction: Literal["right", "Right"] | None = None
    prompt_name: str | None = None


class EmbedRequest(Truncation, kw_only=True, forbid_unknown_fields=True):
    """Body of ``/embed``."""

    inputs: Texts
    normalize: bool | None = None
    dimensions: Positive | None = None


class Comparison(Struct, forbid_unknown_fields=True):
    """A sentence, and those that it is compared with."""

    source_sentence: str
    sentences: Annotated[list[str], Meta(min_length=1)]


class SimilarityRequest(Struct, forbid_unknown_fields=True):
    """Body of ``/similarity``; ``parameters`` are the fields of TEI's other requests."""

    inputs: Comparison
    parameters: Truncation | None = None
    model: str | None = None


class TokenizeRequest(Struct, forbid_unknown_fields=True):
    """Body of ``/tokenize``."""

    inputs: str | Annotated[list[str], Meta(min_length=1)]
    add_special_tokens: bool = True
    prompt_name: str | None = None
    model: str | None = None


class SimpleToken(Struct):
    """A token of a text, with its place in the characters of the text; special tokens have none."""

    id: int
    text: str
    special: bool
    start: int | None = None
    stop: int | None = None


class DecodeRequest(Struct, forbid_unknown_fields=True):
    """Body of ``/decode``."""

    ids: Annotated[list[int | list[int]], Meta(min_length=1)]
    skip_special_tokens: bool = True
    model: str | None = None


Vectors = list[list[float]]
Tokens = list[list[SimpleToken]]

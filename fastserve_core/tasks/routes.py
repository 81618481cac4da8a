"""HTTP routes that a task adds to the servers of its models, besides those that every model has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fastserve_core.tasks.generation import GeneratedText, GenerationRequest, TextCodec, TextDelta


class Route(ABC):
    """A ``POST`` route with JSON bodies; derive from ``PredictionRoute`` or ``GenerationRoute``.

    A server validates the body before it calls the methods, which run in its event loop unless stated otherwise.

    Attributes:
        path: Path without parameters, such as ``/answer``.
        summary: One line for the description of the API.
        request_type: Type of the request's body: a dataclass, a ``TypedDict`` or a ``msgspec.Struct``. A field
            ``model`` of it selects one of the server's models; without it, the first one with this route answers.
        response_type: Type of the response's body.
        is_blocking: Whether ``inputs`` and ``response`` of a ``PredictionRoute`` wait for files or compute for long; a
            server then calls them in a thread.
    """

    path: ClassVar[str]
    summary: ClassVar[str]
    request_type: ClassVar[Any]
    response_type: ClassVar[Any]
    is_blocking: ClassVar[bool] = False


class PredictionRoute(Route):
    """A route whose answer is made of predictions, such as ``/embed``."""

    @abstractmethod
    def inputs(self, body: Any) -> Sequence[Any]:
        """Return the inputs to predict for.

        Args:
            body: The request's body.

        Returns:
            Inputs as ``Task.read_input`` takes them. They are counted and queued like those of ``/predict``.

        Raises:
            DataError: The body cannot be used.
        """

    def parameters(self, body: Any) -> Mapping[str, Any]:
        """Return the parameters of the inputs, as those of a request to ``/predict``; none by default."""
        return {}

    @abstractmethod
    def response(self, body: Any, predictions: Sequence[Mapping[str, Any]], model: str) -> Any:
        """Return the response's body.

        Args:
            body: The request's body.
            predictions: The task's answer for each input; that of an input that was cut has ``truncated``.
            model: Name of the model.

        Raises:
            DataError: The body asks for something that these predictions do not have.
        """


class TextResponse(ABC):
    """The JSON bodies of one response with generated texts, complete or as a stream."""

    @abstractmethod
    def complete(self, texts: Sequence[GeneratedText], prompt_tokens: int) -> Any:
        """Return the body of a complete response; ``prompt_tokens`` is the number of tokens of all prompts."""

    def begin(self, count: int) -> Sequence[Any]:
        """Return the bodies before the first token of so many texts."""
        return ()

    @abstractmethod
    def chunk(self, index: int, delta: TextDelta) -> Any:
        """Return the body of new characters of the text with this index, or of its end."""

    def end(self, prompt_tokens: int, tokens: int) -> Sequence[Any]:
        """Return the bodies after the last token; the numbers of tokens are of all prompts and of all texts."""
        return ()


class GenerationRoute(Route):
    """A route that generates texts, complete or as server-sent events, such as ``/v1/completions``.

    A stream ends with the event ``[DONE]``, or with an error. The task must be generative.
    """

    @abstractmethod
    def prompts(self, body: Any, codec: TextCodec) -> list[list[int]]:
        """Return the token ids of the prompts; called in a thread, because encoding takes time.

        Args:
            body: The request's body.
            codec: The codec of the model's texts.

        Raises:
            DataError: The body cannot be used.
        """

    def num_texts(self, body: Any) -> int:
        """Return the number of texts for each prompt."""
        return 1

    @abstractmethod
    def generation_request(self, body: Any, prompt: Sequence[int], index: int, limit: int) -> GenerationRequest:
        """Return the request for one text.

        Args:
            body: The request's body.
            prompt: Token ids of the prompt.
            index: Index of the text among those of this prompt.
            limit: Number of new tokens that the server and the model allow after this prompt. A server refuses
                requests for more than it allows.

        Raises:
            DataError: The body cannot be used.
        """

    def wants_stream(self, body: Any) -> bool:
        """Return whether the response is a stream."""
        return False

    @abstractmethod
    def response(self, body: Any, model: str) -> TextResponse:
        """Return the builder of the response's bodies; ``model`` is the name of the model."""

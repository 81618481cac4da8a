"""Paged attention in OpenVINO: many texts in one graph, with keys and values in blocks (vLLM, Kwon et al. 2023).

The stateful graph of ``CausalExport`` becomes one with paged attention: texts of any lengths are concatenated without
padding, and block indices locate each text's keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.errors import ExportError
from fastserve_core.processes import hide_package
from fastserve_core.tasks import KV_BLOCK_SIZE, SequenceChunk
from fastserve_engines.causal_engine import FP32_CONFIG, read_special_tokens
from fastserve_engines.lora import load_adapters
from fastserve_engines.lora_openvino import ADAPTER_NUMBERS, add_adapters

LAST_TOKENS = "last_tokens"
"""Added input: indices of the tokens whose logits are computed. Logits of a whole prompt have the shape (length,
vocabulary) and would be most of a small model's arithmetic."""
CACHE_PREFIXES = ("key_cache.", "value_cache.")


class PagedDecodeEngine:
    """``DecodeEngine`` of an OpenVINO graph."""

    shares_prefixes = True
    checks_guesses = True

    def __init__(
        self, graph: Path, settings: Path, threads: int, memory: int, adapters: Mapping[str, Path] | None = None
    ) -> None:
        """Compile the graph and allocate the blocks.

        Args:
            graph: Path of an ``openvino_model.xml``.
            settings: Folder of the model's config.
            threads: Number of threads.
            memory: Bytes for keys and values.
            adapters: Folders of adapters by name, for the weights in ``settings``.

        Raises:
            ExportError: The graph is not one of a causal language model.
            ArtifactError: An adapter is damaged or belongs to another base.
        """
        with hide_package("openvino_telemetry"):
            import openvino

        core = openvino.Core()
        paged = _page_attention(core.read_model(graph))
        self._adapters = load_adapters(adapters, settings) if adapters else None
        if self._adapters is not None:
            add_adapters(paged, self._adapters, settings)
        compiled = core.compile_model(paged, "CPU", _make_config(threads))
        self.eos_token_ids = frozenset(read_special_tokens(settings)[0])
        self._request = compiled.create_infer_request()
        caches = [port for port in compiled.inputs if port.get_any_name().startswith(CACHE_PREFIXES)]
        shapes = [[int(side.get_length()) for side in list(port.partial_shape)[1:]] for port in caches]
        block_bytes = sum(
            int(np.prod(shape)) * port.element_type.size for port, shape in zip(caches, shapes, strict=True)
        )
        self.blocks = max(1, memory // block_bytes)
        for port, shape in zip(caches, shapes, strict=True):
            tensor = openvino.Tensor(port.element_type, openvino.Shape([self.blocks, *shape]))
            self._request.set_tensor(port.get_any_name(), tensor)

    def step(self, pieces: Sequence[SequenceChunk]) -> np.ndarray[Any, Any]:
        """Run one pass over all chunks.

        Returns:
            fp32 logits (rows, vocabulary) of the token after the last of each chunk, and after those before guesses.
        """
        inputs = _make_inputs(pieces)
        if self._adapters is not None:
            numbers = [self._adapters.numbers[piece.adapter] for piece in pieces]
            inputs[ADAPTER_NUMBERS] = np.repeat(numbers, [len(piece.tokens) for piece in pieces])
        logits: np.ndarray[Any, Any] = self._request.infer(inputs)["logits"]
        return logits.reshape(len(inputs[LAST_TOKENS]), -1).copy()  # the next pass reuses the memory

    def close(self) -> None:
        """Release the model and its blocks."""
        del self._request


def _make_inputs(pieces: Sequence[SequenceChunk]) -> dict[str, Any]:
    lengths = np.array([len(piece.tokens) for piece in pieces])
    past = np.array([piece.num_cached_tokens for piece in pieces])
    ends = np.concatenate([[0], lengths.cumsum()])
    block_counts = -(-(past + lengths) // KV_BLOCK_SIZE)
    indices: dict[str, Any] = {
        "past_lens": past,
        "subsequence_begins": ends,
        "block_indices_begins": np.concatenate([[0], block_counts.cumsum()]),
        "block_indices": np.concatenate(
            [piece.blocks[:count] for piece, count in zip(pieces, block_counts, strict=True)]
        ),
        "max_context_len": (past + lengths).max(),
    }
    return {
        "input_ids": np.concatenate([piece.tokens for piece in pieces]).astype(np.int64),
        "position_ids": np.concatenate(
            [np.arange(piece.num_cached_tokens, piece.num_cached_tokens + len(piece.tokens)) for piece in pieces]
        ),
        LAST_TOKENS: np.concatenate(
            [np.arange(end - 1 - piece.num_guessed, end) for end, piece in zip(ends[1:], pieces, strict=True)]
        ),
        **{name: np.asarray(value, dtype=np.int32) for name, value in indices.items()},
    }


def _make_config(threads: int) -> dict[str, Any]:
    return {**FP32_CONFIG, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}


def _page_attention(graph: Any) -> Any:
    """Return the graph with paged attention, and logits of the last tokens only."""
    from openvino._offline_transformations import paged_attention_transformation

    try:
        paged_attention_transformation(graph)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ExportError(f"OpenVINO cannot convert the graph to paged attention: {reason}") from error
    _select_last_tokens(graph)
    return graph


def _select_last_tokens(graph: Any) -> None:
    """Make the last matrix product, which computes the logits, read the selected tokens only."""
    from openvino import PartialShape, Type, opset13

    product = next(
        (node for node in _iterate_first_inputs(graph.outputs[0].get_node()) if node.get_type_name() == "MatMul"), None
    )
    if product is None:
        raise ExportError("no matrix product computes the graph's logits")
    last_tokens = opset13.parameter(PartialShape([-1]), Type.i64, name=LAST_TOKENS)
    last_tokens.output(0).get_tensor().set_names({LAST_TOKENS})
    graph.add_parameters([last_tokens])
    selected = opset13.gather(product.input_value(0), last_tokens, opset13.constant(np.int64(0)))
    product.input(0).replace_source_output(selected.output(0))
    graph.validate_nodes_and_infer_types()


def _iterate_first_inputs(node: Any) -> Iterator[Any]:
    """Yield a node, the node of its first input, and so on."""
    while True:
        yield node
        if not node.get_input_size():
            return
        node = node.input_value(0).get_node()

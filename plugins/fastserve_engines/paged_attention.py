"""Many texts in one OpenVINO graph, their keys and values in blocks: attention as in vLLM (Kwon et al., 2023).

The stateful graph that ``CausalExport`` writes becomes one with paged attention, in which texts of any lengths lie one
after the other without padding, and in which each text's keys and values are found by the numbers of its blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.errors import ExportError
from fastserve_core.processes import hide_package
from fastserve_core.tasks import KV_BLOCK_SIZE, SequenceChunk
from fastserve_engines.causal_engine import CONFIG, special_tokens

LAST = "last_tokens"
"""An input of our own: which tokens' logits are wanted. Those of a whole prompt would be a table of its length by the
vocabulary, and most of a small model's arithmetic."""
CACHES = ("key_cache.", "value_cache.")


class PagedDecodeEngine:
    """A ``DecodeEngine`` for ``graph``, an ``openvino_model.xml``; the model's config is in the folder ``settings``."""

    def __init__(self, graph: Path, settings: Path, threads: int, memory: int) -> None:
        """``memory`` is what keys and values may take, in bytes. Raises ``ExportError`` for another kind of graph."""
        with hide_package("openvino_telemetry"):
            import openvino

        core = openvino.Core()
        compiled = core.compile_model(_paged(core.read_model(graph)), "CPU", _config(threads))
        self.eos_token_ids = frozenset(special_tokens(settings)[0])
        self._request = compiled.create_infer_request()
        caches = [one for one in compiled.inputs if one.get_any_name().startswith(CACHES)]
        shapes = [[int(side.get_length()) for side in list(one.partial_shape)[1:]] for one in caches]
        each = sum(int(np.prod(shape)) * one.element_type.size for one, shape in zip(caches, shapes, strict=True))
        self.blocks = max(1, memory // each)
        for one, shape in zip(caches, shapes, strict=True):
            tensor = openvino.Tensor(one.element_type, openvino.Shape([self.blocks, *shape]))
            self._request.set_tensor(one.get_any_name(), tensor)

    def step(self, pieces: Sequence[SequenceChunk]) -> np.ndarray[Any, Any]:
        logits: np.ndarray[Any, Any] = self._request.infer(_inputs(pieces))["logits"]
        return logits.reshape(len(pieces), -1).copy()  # the next pass writes its own there

    def close(self) -> None:
        del self._request


def _inputs(pieces: Sequence[SequenceChunk]) -> dict[str, Any]:
    lengths = np.array([len(one.tokens) for one in pieces])
    past = np.array([one.num_cached_tokens for one in pieces])
    ends = np.concatenate([[0], lengths.cumsum()])
    needed = -(-(past + lengths) // KV_BLOCK_SIZE)
    numbers: dict[str, Any] = {
        "past_lens": past,
        "subsequence_begins": ends,
        "block_indices_begins": np.concatenate([[0], needed.cumsum()]),
        "block_indices": np.concatenate([one.blocks[:count] for one, count in zip(pieces, needed, strict=True)]),
        "max_context_len": (past + lengths).max(),
    }
    return {
        "input_ids": np.concatenate([one.tokens for one in pieces]).astype(np.int64),
        "position_ids": np.concatenate(
            [np.arange(one.num_cached_tokens, one.num_cached_tokens + len(one.tokens)) for one in pieces]
        ),
        LAST: ends[1:] - 1,
        **{name: np.asarray(value, dtype=np.int32) for name, value in numbers.items()},
    }


def _config(threads: int) -> dict[str, Any]:
    return {**CONFIG, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}


def _paged(graph: Any) -> Any:
    """The graph with paged attention, and logits of the wanted tokens only."""
    from openvino._offline_transformations import paged_attention_transformation

    try:
        paged_attention_transformation(graph)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ExportError(f"OpenVINO finds no attention to page in the graph: {reason}") from error
    _choose_last(graph)
    return graph


def _choose_last(graph: Any) -> None:
    """Have the last product, which makes the logits, take the wanted tokens alone."""
    from openvino import PartialShape, Type, opset13

    product = next(
        (one for one in _first_input_chain(graph.outputs[0].get_node()) if one.get_type_name() == "MatMul"), None
    )
    if product is None:
        raise ExportError("the graph's logits come from no product of matrices")
    wanted = opset13.parameter(PartialShape([-1]), Type.i64, name=LAST)
    wanted.output(0).get_tensor().set_names({LAST})
    graph.add_parameters([wanted])
    chosen = opset13.gather(product.input_value(0), wanted, opset13.constant(np.int64(0)))
    product.input(0).replace_source_output(chosen.output(0))
    graph.validate_nodes_and_infer_types()


def _first_input_chain(node: Any) -> Iterator[Any]:
    """A node, and those that its first inputs come from, up to a branching."""
    while True:
        yield node
        if not node.get_input_size():
            return
        node = node.input_value(0).get_node()

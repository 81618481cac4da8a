"""Errors of tracers and converters in a sentence: their own messages are pages about source lines and symbols."""

from __future__ import annotations

import re

LENGTH_MESSAGES = (
    *("Constraints violated", "data-dependent", "marked as dynamic", "specialized", "unbacked"),
    *("Eq(Mod", "torch._check", "GuardOnDataDependent"),
)
"""Parts of torch's messages about a computation that branches on the length or the values of its inputs."""
DYNAMIC_MODEL = "its computation depends on the length or the values of the input, so that no graph fits all texts"
INSTRUCTIONS = "This is step"
"""How torch.onnx begins its advice to the authors of a model, after the reason and a colour."""
MISSING_OPERATOR = re.compile(r"No conversion rule found for operations: (?:<function )?([\w:.]+)")
NO_ONNX_OPERATOR = re.compile(r"(?:No ONNX function found for|no decompositions? .*for) <?OpOverload\(op='([\w.:]+)'")


def explain_export_error(error: BaseException) -> str | None:
    """Return the reason of a tracer's or a converter's error in a sentence; ``None`` if it is not a known one."""
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        messages.append(f"{type(cause).__name__} {cause}")
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(messages)
    for pattern in (MISSING_OPERATOR, NO_ONNX_OPERATOR):
        if match := pattern.search(text):
            return f"the format has no operator {match[1].strip().rstrip('.,')}"
    if any(part in text for part in LENGTH_MESSAGES):
        return DYNAMIC_MODEL
    return str(error).partition("\x1b")[0].strip() if INSTRUCTIONS in text else None


def fixed_shape_message(name: str, shape: object) -> str:
    """Return the message about a graph that takes inputs of one shape only."""
    return f"the model cannot be exported: {DYNAMIC_MODEL} (the graph fixes {name} to {shape})"

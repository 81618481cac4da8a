"""The next token: training on plain texts and on conversations, and continuation of a prompt."""

from fastserve_text.causal_lm.task import CausalLM, Options

__all__ = ["CausalLM", "Options"]

"""The processor: its name, and the units by which 8-bit and bf16 products are fast or slow."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

INT8_FEATURES = ("avx512bw", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
BF16_FEATURES = ("avx512_bf16", "amx_bf16", "bf16")
LIMIT_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""oneDNN, which computes the products of torch and OpenVINO, uses no instructions above this limit."""
LIMITS_WITHOUT_INT8 = ("SSE41", "AVX", "AVX2")
LIMITS_WITHOUT_BF16 = (*LIMITS_WITHOUT_INT8, "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
NAME_ENTRIES = ("model name", "Hardware", "CPU part")


@dataclass(frozen=True)
class Processor:
    """A processor with the limits that the environment sets.

    Attributes:
        name: The model.
        features: The instruction sets, by the names that Linux has for them.
        limit: The highest instruction set that libraries may use; empty without a limit.
    """

    name: str
    features: frozenset[str]
    limit: str = ""

    @property
    def has_int8_units(self) -> bool:
        """Whether products of 8-bit integers are faster than those of floats."""
        return self.limit not in LIMITS_WITHOUT_INT8 and not self.features.isdisjoint(INT8_FEATURES)

    @property
    def has_bf16_units(self) -> bool:
        """Whether products of bf16 numbers are faster than those of fp32 numbers."""
        return self.limit not in LIMITS_WITHOUT_BF16 and not self.features.isdisjoint(BF16_FEATURES)

    @property
    def may_prefer_floats(self) -> bool:
        """Whether products of floats may be as fast as those of 8-bit integers: without int8, or with bf16 units."""
        return self.has_bf16_units or not self.has_int8_units

    @property
    def label(self) -> str:
        """The name with the limit, for messages and keys."""
        return f"{self.name} (limited to {self.limit})" if self.limit else self.name


def read_processor(cpuinfo: Path = Path("/proc/cpuinfo"), environment: Mapping[str, str] = os.environ) -> Processor:
    """Read the name and the features of this machine's processor.

    Args:
        cpuinfo: The processors, as Linux reports them. Without it the features are unknown.
        environment: Environment variables, which may set a limit.
    """
    limit = next((environment[name].upper() for name in LIMIT_VARIABLES if environment.get(name)), "")
    try:
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").strip().split("\n\n", 1)[0]
    except OSError:
        first = ""
    entries = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    name = next((entries[entry] for entry in NAME_ENTRIES if entries.get(entry)), platform.processor())
    features = entries.get("flags") or entries.get("Features") or ""
    return Processor(
        name or platform.machine(), frozenset(features.split()), "" if limit in ("ALL", "DEFAULT") else limit
    )

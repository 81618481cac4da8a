"""The processor's units, from the system's list and the limits of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastserve_core.processes.processor import read_processor

EPYC = (
    "processor\t: 0\nmodel name\t: AMD EPYC 7571\nflags\t\t: fpu avx avx2 fma\n\nprocessor\t: 1\nflags\t: avx512_vnni\n"
)
SKYLAKE = "model name\t: Xeon Gold 6148\nflags\t\t: avx2 avx512f avx512bw\n"
SAPPHIRE = "model name\t: Xeon 8488C\nflags\t\t: avx2 avx512bw avx512_vnni avx512_bf16 amx_int8 amx_bf16\n"
ALDER = "model name\t: Core i5-12400\nflags\t\t: avx2 avx_vnni\n"
GRAVITON2 = "BogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0c\n"
PI = "Features\t: fp asimd evtstrm\nCPU part\t: 0xd08\n"
PINS = {"EPYC": EPYC, "SKYLAKE": SKYLAKE, "SAPPHIRE": SAPPHIRE, "ALDER": ALDER, "GRAVITON2": GRAVITON2, "PI": PI}


@pytest.mark.parametrize(
    ("machine", "limit", "int8", "bf16"),
    [
        ("EPYC", "", False, False),
        ("SKYLAKE", "", True, False),
        ("ALDER", "", True, False),
        ("SAPPHIRE", "", True, True),
        ("SAPPHIRE", "ALL", True, True),
        ("SAPPHIRE", "avx2", False, False),
        ("SAPPHIRE", "AVX512_CORE_VNNI", True, False),
        ("GRAVITON2", "", True, False),
        ("PI", "", False, False),
        ("none", "", False, False),
    ],
)
def test_the_units_follow_from_the_list_and_the_limit(
    machine: str, limit: str, int8: bool, bf16: bool, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if machine in PINS:
        cpuinfo.write_text(PINS[machine])
    processor = read_processor(cpuinfo, {"ONEDNN_MAX_CPU_ISA": limit})
    assert (processor.has_int8_units, processor.has_bf16_units) == (int8, bf16)
    assert processor.may_prefer_floats == (bf16 or not int8)
    assert processor.name
    assert ("limited to AVX2" in processor.label) == (limit == "avx2")


def test_the_name_is_that_of_the_first_processor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(EPYC)
    assert read_processor(tmp_path / "cpuinfo", {}).label == "AMD EPYC 7571"
    assert read_processor().name

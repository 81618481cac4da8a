"""The GGUF file that SmolLM2 is fetched as, with its weights in llama.cpp's 8 bits: what ours has in that line."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def in_8_bits(source: Path, target: Path) -> Path:
    """Q8_0: a scale for each 32 weights of a row; vectors in fp32."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

    reader = GGUFReader(source)
    writer = GGUFWriter(target, arch=reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture", "general.file_type")):
            kind, parts = field.types[0], field.types[-1]
            several = parts if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=several)
    for tensor in reader.tensors:
        values: Any = quants.dequantize(tensor.data, tensor.tensor_type)
        kind = GGMLQuantizationType.Q8_0 if values.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target

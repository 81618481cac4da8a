"""``fastserve export RUN_OR_ARTIFACT FOLDER --to FORMAT``: export a model for another runtime, and verify it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastserve_core.artifacts.locate import find_artifact
from fastserve_core.cli.arguments import make_parser
from fastserve_core.entry_points import all_entry_points
from fastserve_core.export.export import VERIFICATION_ROWS, export_artifact
from fastserve_core.export.formats import GROUP
from fastserve_core.processes.environment import set_library_environment, skip_compile_cache


def main(arguments: Sequence[str]) -> int:
    """Export a model; return the exit code."""
    formats = {entry_point.name for entry_point in all_entry_points().select(group=GROUP)}
    parser = make_parser("export", "Export a model for another runtime, and compare the outputs with the model's own.")
    parser.add_argument("model", type=Path, metavar="RUN_OR_ARTIFACT")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder, or that of an older export")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=", ".join(sorted(formats)))
    parser.add_argument(
        "--check", type=int, default=VERIFICATION_ROWS, metavar="N", help="inputs to compare (default: 16)"
    )
    options = parser.parse_intermixed_args(arguments)
    set_library_environment()
    skip_compile_cache()
    export = export_artifact(find_artifact(options.model), options.folder, options.to, options.check)
    check = export.metadata["check"]
    print(f"{export.metadata['format']}: {export.folder}")
    for name, file in export.metadata["files"].items():
        print(f"  {file['bytes']:>12,}  {name}")
    print(
        f"compared on {check['inputs']} inputs of {len(check['shapes'])} shapes: the largest difference is "
        f"{check['difference']:.2g} of the largest output ({check['tolerance']:g} allowed)"
    )
    return 0

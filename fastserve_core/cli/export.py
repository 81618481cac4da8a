"""``fastserve export RUN_OR_ARTIFACT FOLDER --to FORMAT``: a model's files for another runtime, compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastserve_core.artifacts.locate import find_artifact
from fastserve_core.cli.arguments import parser
from fastserve_core.entry_points import all_entry_points
from fastserve_core.export.export import VERIFICATION_ROWS, export_artifact
from fastserve_core.export.formats import GROUP
from fastserve_core.processes.environment import library_environment


def main(arguments: Sequence[str]) -> int:
    formats = {one.name for one in all_entry_points().select(group=GROUP)}
    options = parser("export", "Write a model for another runtime, and compare its answers with the model's own.")
    options.add_argument("model", type=Path, metavar="RUN_OR_ARTIFACT")
    options.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder, or an older export's")
    options.add_argument("--to", required=True, metavar="FORMAT", help=", ".join(sorted(formats)))
    options.add_argument(
        "--check", type=int, default=VERIFICATION_ROWS, metavar="N", help="inputs to compare (default: 16)"
    )
    given = options.parse_intermixed_args(arguments)
    library_environment()
    made = export_artifact(find_artifact(given.model), given.folder, given.to, given.check)
    check = made.about["check"]
    print(f"{made.about['format']}: {made.folder}")
    for name, one in made.about["files"].items():
        print(f"  {one['bytes']:>12,}  {name}")
    print(
        f"compared on {check['inputs']} inputs of {len(check['shapes'])} shapes: the largest difference is "
        f"{check['difference']:.2g} of the largest answer ({check['tolerance']:g} allowed)"
    )
    return 0

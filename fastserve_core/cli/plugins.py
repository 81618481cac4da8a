"""``fastserve plugins``: list the installed plugins, their distributions, and whether they can be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastserve_core.cli.arguments import format_table, make_parser
from fastserve_core.config.groups import find_config
from fastserve_core.entry_points import PluginEntry, blocked_plugins, installed_plugins
from fastserve_core.errors import FastServeError
from fastserve_core.plugins.load import load_plugin
from fastserve_core.plugins.registry import CONFIG_SECTIONS


def main(arguments: Sequence[str]) -> int:
    """Print the plugins; return the exit code."""
    parser = make_parser("plugins", "List the installed plugins.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_intermixed_args(arguments)
    plugins = [describe(entry) for _, entry in sorted(installed_plugins().items())]
    if options.json:
        print(json.dumps(plugins, indent=1))
        return 0
    rows = [["plugin", "stage", "from", "state"]]
    for plugin in plugins:
        rows.append([plugin["name"], plugin["stage"], f"{plugin['distribution']} {plugin['version']}", plugin["state"]])
    print(format_table(rows))
    return 0


def describe(entry: PluginEntry) -> dict[str, Any]:
    """Describe a plugin as a JSON object; ``state`` is ``ready``, ``blocked …``, or why it cannot be used."""
    stage = stage_of(entry.name)
    state = "ready"
    if entry.name in blocked_plugins():
        state = "blocked by FASTSERVE_BLOCK_PLUGINS"
    else:
        try:
            load_plugin(entry)
        except FastServeError as error:
            state = str(error)
    return {
        "name": entry.name,
        "stage": stage,
        "distribution": entry.distribution,
        "version": entry.version,
        "module": entry.entry_point.value,
        "state": state,
    }


def stage_of(name: str) -> str:
    """Return the stage of a plugin, from the first line of its config; ``?`` if there is none."""
    path = find_config("plugin", name)
    if path is None:
        return "?"
    header = path.read_text(encoding="utf-8").partition("\n")[0]
    stage = header.removeprefix("# @package ").partition(".")[0]
    return stage if stage in CONFIG_SECTIONS else "?"

"""Commands that installed packages provide: the group of entry points ``fastserve.commands``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fastserve_core.cli.arguments import is_data_option, make_parser, parse_data_options
from fastserve_core.cli.progress_line import ProgressLine
from fastserve_core.entry_points import COMMAND_GROUP, load_entry_point
from fastserve_core.plugins.command import Command


def main(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names; return the exit code."""
    name = arguments[0]
    command: Command = load_entry_point(COMMAND_GROUP, name)()
    parser = make_parser(name, command.help)
    command.add_arguments(parser)
    parser.epilog = "data.OPTION=VALUE, anywhere: how files are read, as in a run"
    options = parser.parse_intermixed_args([one for one in arguments[1:] if not is_data_option(one)])
    data = parse_data_options([one for one in arguments[1:] if is_data_option(one)])
    with ProgressLine(sys.stderr) as line:
        return command.run(options, data, line.show)

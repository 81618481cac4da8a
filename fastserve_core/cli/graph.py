"""``fastserve graph RUN_OR_ARTIFACT FILES… --output FILE``: write the facts of texts as a graph."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fastserve_core.artifacts.locate import find_artifact
from fastserve_core.cli.arguments import is_data_option, make_parser, parse_data_options
from fastserve_core.cli.progress_line import ProgressLine
from fastserve_core.errors import OptionError
from fastserve_core.inference.predictor import Predictor
from fastserve_core.processes.environment import set_library_environment
from fastserve_core.serving.graph_prediction import find_writer, predict_graph, read_aliases
from fastserve_core.serving.knowledge_graph import Aliases


def main(arguments: Sequence[str]) -> int:
    """Write the graph; return the exit code."""
    parser = make_parser("graph", "Write the entities and relations of texts as a graph.")
    parser.add_argument("model", metavar="RUN_OR_ARTIFACT", help="a folder with a model that finds relations")
    parser.add_argument("files", nargs="+", metavar="FILES", help="data files, folders, options as data.encoding=NAME")
    parser.add_argument("--output", required=True, metavar="FILE", help="the graph; the suffix decides the format")
    parser.add_argument("--aliases", metavar="FILE", help="a table with the columns alias and name, or a JSON object")
    parser.add_argument("--min-score", type=float, default=0.0, metavar="SCORE", help="the least score of a relation")
    options = parser.parse_intermixed_args(arguments)
    files = [argument for argument in options.files if not is_data_option(argument)]
    if not files:
        raise OptionError("graph needs the files with the texts")
    data_options = parse_data_options([argument for argument in options.files if is_data_option(argument)])
    if not 0 <= options.min_score <= 1:
        raise OptionError(f"--min-score must lie between 0 and 1, not {options.min_score:g}")
    output = Path(options.output)
    write = find_writer(output)
    aliases = read_aliases(Path(options.aliases)) if options.aliases else Aliases()
    set_library_environment()
    predictor = Predictor(find_artifact(Path(options.model)))
    with ProgressLine(sys.stderr) as line:
        result = predict_graph(predictor, files, data_options, aliases, options.min_score, line.show)
        write(result.graph, output, line.show)
    graph = result.graph
    print(f"{output}: {len(graph.entities)} entities, {len(graph)} relations, {result.rows} texts")
    return 0

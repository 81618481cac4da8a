"""Writes the reference pages from the code: ``python docs/generate.py``, or ``--check`` to fail when they are stale."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

from fastserve_core import cli, entry_points
from fastserve_core.config import config_dir, group_choices
from fastserve_core.errors import FastServeError, UserError
from fastserve_core.plugins import load_plugin

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- written by docs/generate.py from the code: do not edit -->\n"
VARIABLES = {
    "FASTSERVE_HOME": "The store: downloads, results, partial results. Without it: `.fastserve` in the working folder.",
    "FASTSERVE_BLOCK_PLUGINS": "Plugins that must not be used, by name, separated by commas.",
    "FASTSERVE_API_KEYS": "API keys of a server, separated by commas; added to those of `api_keys_file`.",
    "FASTSERVE_API_KEY": "The key that `AsyncClient` and `fastserve predict URL` send.",
    "FASTSERVE_DEBUG": "Anything but empty: show the traceback beside the message.",
}
EXITS = {
    0: "done",
    FastServeError.exit_code: "a stage or a download failed, or a file could not be written",
    UserError.exit_code: "the input is wrong: an unknown plugin or option, a bad file, a missing package",
    cli.INTERRUPTED_EXIT_CODE: "interrupted by SIGINT or SIGTERM; finished work is saved",
}
SECTIONS = ("Args:", "Attributes:", "Returns:", "Yields:", "Raises:", "Note:", "Example:")
"""The headings of Google's convention for docstrings."""
GROUPS = {
    "experiment": "`+experiment=NAME`: a whole run",
    "model": "`model=NAME`, or a folder, or a hub id `org/name`",
    "data": "`data=NAME`, or a file",
}
PUBLIC = {
    "The Python object": [
        *("api.FastServe", "api.Result"),
        *("serving.counts.PredictionCounts", "serving.file_prediction.FilePrediction"),
    ],
    "Plugins": [
        "plugins.hookspecs.Hooks",
        *(f"plugins.base.{name}" for name in ("Plugin", "Trainer", "Tuner", "Compressor", "Server", "Observer")),
        "plugins.command.Command",
        "testing.PluginContract",
    ],
    "What a verb is given and gives": [
        *("plugins.contexts.StageContext", "plugins.contexts.TrainContext", "plugins.contexts.TuneContext"),
        *("plugins.contexts.CompressContext", "plugins.contexts.ServeContext"),
        *("plugins.requests.StagedArtifact", "plugins.requests.Budget", "plugins.requests.AuxiliaryLoss"),
        *("plugins.requests.TrialRequest", "plugins.requests.TrialResult", "plugins.requests.RunningServer"),
    ],
    "Artifacts": [
        "artifacts.artifact.Artifact",
        "artifacts.artifact.Manifest",
        "artifacts.artifact.load_artifact",
        "artifacts.artifact.is_artifact",
    ],
    "Exports": [
        "export.formats.ExportFormat",
        "export.formats.FormatReader",
        "export.export.export_artifact",
        "export.export.Exported",
    ],
    "Answers": ["inference.predictor.Predictor", "tasks.load.load_task", "inference.engines.load_engine"],
    "Tasks, data sources and engines": [
        *("tasks.task.Task", "tasks.answering_task.AnsweringTask", "tasks.encoded.Encoder", "tasks.encoded.Encoded"),
        *(f"tasks.declarations.{name}" for name in ("Column", "MetricSpec", "TensorSpec", "LossOptions", "BatchLoss")),
        *("tasks.declarations.DistillationTarget", "tasks.declarations.AnswerView", "tasks.declarations.Triple"),
        *("tasks.declarations.Proposal", "tasks.declarations.Doubt"),
        *(f"tasks.routes.{name}" for name in ("Route", "PredictionRoute", "GenerationRoute", "TextResponse")),
        *(f"tasks.generation.{name}" for name in ("GenerationRequest", "Sampling", "TextDelta", "GeneratedText")),
        *("data.source.DataSource", "data.source.RawRecord", "inference.engine.Engine"),
    ],
    "Graphs": [
        *(f"serving.knowledge_graph.{name}" for name in ("KnowledgeGraph", "Entity", "Relation", "Aliases")),
        "serving.knowledge_graph.describe_entity",
    ],
    "Data": ["data.dataset.Dataset", "config.nodes.DataOptions"],
    "The other nodes of the config": [
        "config.nodes.ModelSpec",
        "config.nodes.GateOptions",
        "pipeline.settings.PreflightOptions",
    ],
    "Processes and threads": [
        *(
            "processes.child.run_in_child",
            "processes.child.child_main",
            "processes.child.event_writer",
            "processes.child.die_with_parent",
        ),
        *(
            "processes.resources.usable_cores",
            "processes.resources.threads_per_process",
            "processes.resources.thread_environment",
        ),
    ],
    "Events": ["events.*"],
    "Errors": ["errors.*"],
}


def commands() -> str:
    """The page of commands, options and choices."""
    parts = ["# Commands and options\n", NOTE, "## `fastserve`\n", *_screen("main_help", [])]
    for name, text in cli.COMMANDS.items():
        parts += [f"## `fastserve {name}`\n", f"{text[0].upper()}{text[1:]}.\n", *_screen(name, ["--help"])]
    for name in entry_points.installed_commands():
        text = entry_points.load_entry_point(entry_points.COMMAND_GROUP, name).help
        parts += [
            f"## `fastserve {name}`\n",
            f"{text[0].upper()}{text[1:]}.\n",
            *_screen("extension", [name, "--help"]),
        ]
    parts += ["## The options of the plugins\n", "Set one with `STAGE.PLUGIN.OPTION=VALUE`.\n"]
    for name in group_choices("plugin"):
        path = config_dir() / "plugin" / f"{name}.yaml"
        stage = path.read_text(encoding="utf-8").split()[2].partition(".")[0]
        kinds = reversed(load_plugin(entry_points.installed_plugins()[name]).Options.__mro__)
        docs = "\n".join(_plain(kind.__doc__) for kind in kinds if is_dataclass(kind) and kind.__doc__)
        table = _options(path)
        parts += [f"### `{stage}.{name}`\n", *([f"{docs}\n", *table] if table else ["It has no options.\n"])]
    parts.append("## Choices\n")
    for group, how in GROUPS.items():
        parts += [f"### {group.capitalize()}\n", f"{how}.\n", "| name | |\n|---|---|"]
        parts += [
            f"| `{name}` | {_first_comment(config_dir() / group / f'{name}.yaml')} |" for name in group_choices(group)
        ]
        parts.append("")
    for name in group_choices("task"):
        kind = entry_points.load_entry_point("fastserve.tasks", name)
        columns = ", ".join(f"`{one.name}`{'' if one.required else ' (optional)'}" for one in kind.columns)
        parts += [f"### `task={name}`\n", f"{import_module(kind.__module__).__doc__} Columns: {columns}.\n"]
        parts += _options(config_dir() / "task" / f"{name}.yaml")
    parts += ["## Exit codes\n", "| code | |\n|---|---|", *(f"| {code} | {text} |" for code, text in EXITS.items()), ""]
    parts += ["## Environment variables\n", "| variable | |\n|---|---|"]
    return "\n".join([*parts, *(f"| `{name}` | {text} |" for name, text in VARIABLES.items()), ""])


def _screen(command: str, arguments: list[str]) -> list[str]:
    """What a command prints, as a block."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        import_module(f"fastserve_core.cli.{command.replace('-', '_')}").main(arguments)
    return ["```text", printed.getvalue().strip(), "```\n"]


def _options(path: Path) -> list[str]:
    """A table of the options in a config file: name, default, comment."""
    lines = path.read_text(encoding="utf-8").replace("|", "\\|").splitlines()
    found = [match.groups("") for line in lines if (match := re.match(r"(\w+): *(.*?) *(?:# (.*))?$", line))]
    rows = [f"| `{name}` | `{default}` | {text} |" for name, default, text in found if name != "name" or text]
    return ["| option | default | |\n|---|---|---|", *rows, ""] if rows else []


def _first_comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ") and "@package" not in line), "")


def _plain(text: str) -> str:
    """Render a docstring as Markdown, without its attributes: the table of options has them."""
    text = _render_sections(inspect.cleandoc(text).partition("\nAttributes:")[0]).replace("``", "`")
    return "\n".join(line.strip() if not line.startswith("  ") else line for line in text.splitlines())


def _render_sections(text: str) -> str:
    """Render the sections of a docstring in Google's convention (Args, Returns, Raises …) as headed lists."""
    lines, is_section = [], False
    for line in text.splitlines():
        if line in SECTIONS:
            is_section = True
            lines += [f"**{line.removesuffix(':').replace('Args', 'Arguments')}**", ""]
        elif is_section and line.startswith(" "):
            lines.append(
                re.sub(r"^    (\S+): ", r"- `\1`: ", line) if re.match(r"    \S", line) else f"  {line.strip()}"
            )
        else:
            is_section = is_section and not line
            lines.append(line)
    return "\n".join(line.removeprefix("    ") for line in lines) if any(line in text for line in SECTIONS) else text


def python() -> str:
    """The page of the public classes and functions, from their source."""
    parts = ["# Python\n", NOTE, "All of it is in `fastserve_core`; the object is in `fastserve` too.\n"]
    for heading, names in PUBLIC.items():
        parts.append(f"## {heading}\n")
        for name in names:
            module, _, wanted = name.rpartition(".")
            tree = ast.parse((ROOT / "fastserve_core" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
            for node in tree.body:
                if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and _is_wanted(node.name, wanted):
                    parts += _definition(node, module)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).strip() + "\n"


def _is_wanted(name: str, wanted: str) -> bool:
    return name == wanted or (wanted == "*" and not name.startswith("_"))


def _definition(node: ast.ClassDef | ast.FunctionDef, module: str) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        yield f"### `{module}.{node.name}`\n\n```python\n{_signature(node)}\n```\n\n{_doc(node)}\n"
        return
    bases = ", ".join(map(ast.unparse, node.bases))
    yield f"### `{module}.{node.name}`{f' ({bases})' if bases else ''}\n\n{_doc(node)}\n"
    fields = [ast.unparse(one) for one in node.body if isinstance(one, ast.AnnAssign)]
    if fields:
        yield "```python\n" + "\n".join(fields) + "\n```\n"
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.name.startswith("test_"):
            yield f"- {one.name.removeprefix('test_').replace('_', ' ')}"
        elif isinstance(one, ast.FunctionDef) and (one.name == "__init__" or not one.name.startswith("_")):
            marks = {ast.unparse(mark) for mark in one.decorator_list}
            head = "".join(f"@{mark}\n" for mark in ("property", "classmethod") if mark in marks)
            if "pytest.fixture" not in marks:
                yield f"```python\n{head}{_signature(one)}\n```\n\n{_doc(one)}\n"
    yield ""


def _signature(node: ast.FunctionDef) -> str:
    """The definition on one line, or one argument a line where that is too long."""
    args, ends = node.args, f" -> {ast.unparse(node.returns)}" if node.returns else ""
    first = len(args.args) - len(args.defaults)
    shown = [
        ast.unparse(one) + ("" if place < first else f" = {ast.unparse(args.defaults[place - first])}")
        for place, one in enumerate(args.args)
    ] + ([f"**{ast.unparse(args.kwarg)}"] if args.kwarg else [])
    line = f"def {node.name}({', '.join(shown)}){ends}"
    return line if len(line) <= 100 else f"def {node.name}(\n    " + ",\n    ".join(shown) + f",\n){ends}"


def _doc(node: ast.ClassDef | ast.FunctionDef) -> str:
    text = _render_sections(ast.get_docstring(node) or "")
    return re.sub(r"::\n\n((?:    .*\n?|\n)+)", r"\n```python\n\1```\n", text).replace("``", "`").replace("````", "```")


def variables() -> set[str]:
    """The environment variables of ours that the code reads."""
    paths = [path for folder in ("fastserve_core", "plugins") for path in (ROOT / folder).rglob("*.py")]
    texts = (path.read_text(encoding="utf-8") for path in paths if "tests" not in path.parts)
    return {name for text in texts for name in re.findall(r"\bFASTSERVE_[A-Z_]+[A-Z]\b", text)}


def main(arguments: list[str]) -> int:
    os.environ["COLUMNS"] = "100"  # argparse wraps its help at the terminal's width
    entry_points.all_entry_points = lambda: distribution(entry_points.DISTRIBUTION).entry_points  # type: ignore[assignment]
    if unknown := variables() - {*VARIABLES}:
        raise SystemExit(f"say in docs/generate.py what these are: {', '.join(sorted(unknown))}")
    stale = []
    for name, text in (("commands.md", commands()), ("python.md", python())):
        path = REFERENCE / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        print(f"stale: {', '.join(stale)}; run 'python docs/generate.py'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``fastserve init FILE``: read the first rows of a file, propose a task and its options, and write an experiment."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.files import expand_user, publish_new
from fastserve_core.cli.arguments import make_parser, parse_data_options
from fastserve_core.config.groups import default_choice, find_config
from fastserve_core.config.nodes import DataOptions
from fastserve_core.data.readings import Reading, check_header, find_readings
from fastserve_core.data.source import RawRecord, file_source
from fastserve_core.entry_points import installed_plugins
from fastserve_core.errors import DataError, OptionError, UnknownNameError
from fastserve_core.tasks.declarations import Proposal
from fastserve_core.tasks.load import installed_tasks

MAX_RECORDS = 2000
"""The number of records that are read."""
TRAINER, COMPRESSOR = "torch_ddp", "neural_compressor"
EPOCHS = 3
FOLDER = Path("conf", "experiment")

QUESTION = "The file can be read in several ways."

Ask = Callable[[str, Sequence[str]], str]
"""Asks a question with several answers."""


def main(arguments: Sequence[str]) -> int:
    """Write the experiment and print the guesses; return the exit code."""
    parser = make_parser("init", "Read the first rows of a file, and write an experiment: task, columns, options.")
    parser.add_argument("file", metavar="FILE", help="a data file, a pattern, or a folder, as of data.train")
    parser.add_argument("options", nargs="*", metavar="data.OPTION=VALUE", help="how to read it, as in a run")
    parser.add_argument("--task", help="the task, if several fit")
    parser.add_argument("--model", help="the model to start from (default: proposed by the task)")
    parser.add_argument("--name", help="the experiment's name (default: that of the file)")
    options = parser.parse_intermixed_args(arguments)
    ask = _ask if sys.stdin.isatty() and sys.stdout.isatty() else None
    data = replace(parse_data_options(options.options), train=options.file)
    name = options.name or re.sub(r"\W+", "_", Path(options.file).name.partition(".")[0]).strip("_") or "data"
    path = FOLDER / f"{name}.yaml"
    if path.exists() or find_config("experiment", name):
        raise OptionError(f"the experiment {name} exists already: --name gives another name")
    records = _read(data)
    reading = _choose(records, options, data, ask)
    proposal = reading.task.propose(reading.rows)
    _print_evidence(options.file, reading, proposal)
    model = options.model or proposal.model or default_choice("model")
    publish_new(path, _render(reading, data, proposal, model))
    print(f"wrote     {path}\n\nnext: fastserve --config-dir {FOLDER.parent} +experiment={shlex.quote(name)}")
    return 0


def _read(data: DataOptions) -> list[RawRecord]:
    def report(message: str) -> None:
        print(f"guess     {message}")

    splits = file_source().read(data, expand_user("."), report)
    records = list(islice(splits["train"], MAX_RECORDS))
    if not records:
        raise DataError(f"{data.train} has no rows")
    check_header(records)
    return records


# -- the choice --------------------------------------------------------------------------------------


def _choose(records: Sequence[RawRecord], options: Any, data: DataOptions, ask: Ask | None) -> Reading:
    """Return the reading of the records that uses most columns; if several do, the one that is chosen.

    Raises:
        OptionError: Several readings are possible, and nobody can be asked.
        DataError: There is none.
    """
    tasks = installed_tasks()
    if options.task is not None and options.task not in tasks:
        raise UnknownNameError("task", options.task, tasks)
    readings, reasons = find_readings([options.task] if options.task else tasks, records, data.columns)
    if not readings:
        by_reason: dict[str, list[str]] = {}
        for name, reason in reasons.items():
            by_reason.setdefault(str(reason), []).append(name)
        listed = "".join(f"\n  {', '.join(names)}: {reason}" for reason, names in by_reason.items())
        raise DataError(f"no task can use the rows of {options.file}:{listed}")
    best = [reading for reading in readings if reading.rank == readings[0].rank]
    if len(best) == 1:
        return best[0]
    names = {reading.task.name for reading in best}
    answers = {_format_choice(reading, options.task is not None or len(names) > 1): reading for reading in best}
    if ask is None:
        commands = "".join(f"\n  fastserve init {shlex.quote(options.file)} {answer}" for answer in answers)
        raise OptionError(f"{QUESTION} Type one of{commands}")
    return answers[ask(QUESTION, list(answers))]


def _format_choice(reading: Reading, names_task: bool) -> str:
    """Return the arguments that choose a reading."""
    columns = [f"data.columns.{name}={shlex.quote(own)}" for name, own in reading.decisions.items()]
    return " ".join([f"--task {reading.task.name}", *columns] if names_task else columns)


def _ask(question: str, answers: Sequence[str]) -> str:
    listed = "".join(f"\n  {number}. {answer}" for number, answer in enumerate(answers, 1))
    while True:
        print(f"{question}{listed}")
        try:
            given = input(f"1-{len(answers)}: ").strip()
        except EOFError as error:
            raise OptionError(f"{question} No answer was given") from error
        if given in answers:
            return given
        if given.isdecimal() and 1 <= int(given) <= len(answers):
            return answers[int(given) - 1]


# -- the results -------------------------------------------------------------------------------------


def _print_evidence(file: str, reading: Reading, proposal: Proposal) -> None:
    lines = [("file", f"{file}: the first {len(reading.rows) + len(reading.faults):,} rows")]
    lines += [("task", reading.task.name), *reading.describe()]
    lines += [("option", f"task.{name}={json.dumps(value)}") for name, value in reading.options.items()]
    lines += [("note", note) for note in proposal.notes]
    print("\n".join(f"{heading:<10}{text}" for heading, text in lines))


def _render(reading: Reading, data: DataOptions, proposal: Proposal, model: str) -> str:
    """Return the experiment as YAML; values are written as JSON, which YAML contains."""
    installed = installed_plugins()
    plugins = [TRAINER] if reading.task.is_pretraining else [TRAINER, COMPRESSOR]
    plugins = [name for name in plugins if name in installed]
    default = DataOptions()
    changed = {name: value for name, value in vars(data).items() if value != getattr(default, name)}
    changed["columns"] = {name: own for name, own in reading.columns.items() if name != own}
    changed["train"] = str(expand_user(data.train).absolute())
    if reading.faults:
        changed["max_bad_rows"] = max(data.max_bad_rows, len(reading.faults))
    override, model_node = _split_model(model)
    nodes = {"data": changed, "task": {**reading.options, **proposal.options}, "model": model_node}
    lines = [
        "# @package _global_",
        f"# Written by fastserve init for {Path(data.train).name}: change it as you like.",
        "defaults:",
        f"  - /plugin: [{', '.join(plugins)}]",
        "  - _self_",
        "  - override /data: files",
        f"  - override /model: {override}",
        f"  - override /task: {reading.task.name}",
    ]
    for node, values in nodes.items():
        given = {name: value for name, value in values.items() if value not in ({}, None)}
        lines += ["", f"{node}:"] if given else []
        lines += [f"  {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in given.items()]
    if TRAINER in plugins:
        training = {"epochs": EPOCHS, **proposal.training}
        lines += [
            "",
            "train:",
            f"  {TRAINER}:",
            *(f"    {name}: {json.dumps(value)}" for name, value in training.items()),
        ]
    return "\n".join(lines) + "\n"


def _split_model(model: str) -> tuple[str, dict[str, Any]]:
    """Return the choice of the group ``model`` and its options: a name, a folder or a hub id."""
    if find_config("model", model):
        return model, {}
    if expand_user(model).is_dir():
        return "checkpoint", {"path": str(expand_user(model).absolute())}
    if model.count("/") == 1:
        return "hub", {"name": model}
    raise OptionError(f"--model: '{model}' is neither a name in conf/model, a folder, nor a hub id")

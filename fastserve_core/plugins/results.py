"""The checks of a verb's result: its type, and for a model the files."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import COMPILED, TRAINABLE
from fastserve_core.artifacts.checkpoint import PICKLES as PICKLED_WEIGHTS
from fastserve_core.artifacts.checkpoint import check_checkpoint
from fastserve_core.artifacts.files import VOCABULARIES
from fastserve_core.entry_points import all_entry_points
from fastserve_core.errors import ModelError
from fastserve_core.events import Preflight
from fastserve_core.inference.engines import GROUP as ENGINES
from fastserve_core.plugins.base import Compressor, Plugin
from fastserve_core.plugins.requests import StagedArtifact

if TYPE_CHECKING:
    from fastserve_core.plugins.contexts import StageContext

PICKLES = (*PICKLED_WEIGHTS, "*.pickle", "*.joblib", "*.dill")
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04\x95", b"\x80\x05\x95")
LEGACY_TORCH_START = b"\x80\x02\x8a\nl\xfc\x9cF"
"""The magic number of files that ``torch.save`` wrote before it wrote zip archives."""
TOKENIZERS = ("tokenizer.json", *VOCABULARIES)
"""Patterns of the files with a vocabulary; a tokenizer has one of them."""
SERVER_METHODS = ("wait", "stop")


def find_faults(plugin: Plugin, verb: str, run: StageContext, result: Any) -> Iterator[str]:
    """Describe each fault of a result, with the rule that it breaks.

    Args:
        plugin: The plugin.
        verb: The verb.
        run: Its context.
        result: Its result.
    """
    if verb in ("train", "compress"):
        yield from _find_model_faults(plugin, run, result)
    elif verb == "tune":
        yield from _find_option_faults(run, result)
    elif verb == "serve":
        missing = [name for name in SERVER_METHODS if not callable(getattr(result, name, None))]
        missing += [] if isinstance(getattr(result, "url", None), str) else ["url"]
        if missing:
            yield f"returned {_describe(result)} without {', '.join(missing)}: a server has url, wait() and stop()"
    elif verb == "preflight" and not isinstance(result, Preflight | None):
        yield f"returned {_describe(result)}: it must return a Preflight or None"


def _describe(value: Any) -> str:
    kind = type(value).__name__
    return kind if value is None else f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"


def _find_option_faults(run: StageContext, result: Any) -> Iterator[str]:
    if not isinstance(result, Mapping):
        yield f"returned {_describe(result)}: it must return the best options by path"
        return
    known = {**getattr(run, "trainer_options", {}), **getattr(run, "compressor_options", {})}
    for path, value in result.items():
        if path not in known:
            yield f"returned the option {path!r}, which it does not search; it searches {', '.join(known) or 'none'}"
        elif not _is_json(value):
            yield f"returned {path}={value!r} ({_describe(value)}): a value must be one that JSON has, and finite"


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False


def _find_model_faults(plugin: Plugin, run: StageContext, result: Any) -> Iterator[str]:
    if not isinstance(result, StagedArtifact):
        yield f"returned {_describe(result)}: it must return a StagedArtifact"
        return
    faults = [*_find_field_faults(plugin, result)]
    is_paused = getattr(getattr(run, "budget", None), "stop_at_step", None) is not None
    yield from faults
    if not faults and not is_paused:
        yield from _find_folder_faults(run, result)


def _find_field_faults(plugin: Plugin, staged: StagedArtifact) -> Iterator[str]:
    """Describe the faults of the fields, whose types nothing else checks."""
    if not isinstance(staged.folder, Path):
        yield f"returned a StagedArtifact whose folder is {_describe(staged.folder)}: it must be a pathlib.Path"
    engines = {entry_point.name for entry_point in all_entry_points().select(group=ENGINES)}
    if staged.engine not in engines:
        yield f"returned the engine {staged.engine!r}: it must be one of {', '.join(sorted(engines))}"
    forms = plugin.form[1:] if isinstance(plugin, Compressor) else (TRAINABLE, COMPILED)
    if staged.form not in forms:
        yield f"returned the form {staged.form!r}: it must be {' or '.join(map(repr, forms))}"
    if staged.labels is not None and not _are_labels(staged.labels):
        yield f"returned the labels {staged.labels!r}: they must be different texts in a tuple"
    for name in ("scores", "costs"):
        values = getattr(staged, name)
        if not isinstance(values, Mapping) or not all(isinstance(value, Real) for value in values.values()):
            yield f"returned the {name} {values!r}: they must be numbers by name"
    if not isinstance(staged.steps, int):
        yield f"returned {staged.steps!r} steps: the number must be an int"


def _are_labels(labels: Any) -> bool:
    is_sequence = isinstance(labels, Sequence) and not isinstance(labels, str)
    return is_sequence and all(isinstance(label, str) for label in labels) and len(set(labels)) == len(labels)


def _find_folder_faults(run: StageContext, staged: StagedArtifact) -> Iterator[str]:
    folder = staged.folder
    if not folder.is_dir():
        yield f"returned the folder {folder}, which does not exist"
        return
    if not folder.resolve().is_relative_to(run.folder.resolve()):
        yield f"returned the folder {folder}: it must be in the work folder, as run.clean_folder() is"
        return
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    owners = {run.folder.stat().st_uid, os.geteuid()}  # a network's disk may have users of its own
    faults = [fault for name, path in names.items() for fault in _find_file_faults(name, path, owners)]
    yield from faults
    if not faults:
        yield from _find_missing_files(run, staged, names)


def _find_file_faults(name: str, path: Path, owners: Collection[int]) -> Iterator[str]:
    status = path.lstat()
    if not name.isprintable() or name != name.encode(errors="replace").decode():
        yield f"returned a file with the name {name!r}: a name must be printable"
    if stat.S_ISLNK(status.st_mode):
        yield f"returned {name}, a link to {os.readlink(path)}: a model must hold the files themselves"  # noqa: PTH115
    elif not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        yield f"returned {name}, which is neither a file nor a folder"
    elif stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        yield f"returned {name}, which is also linked from elsewhere: a model must hold its own copy"
    elif status.st_uid not in owners:
        yield f"returned {name}, which belongs to the user {status.st_uid}: files must belong to the user of the run"
    elif not os.access(path, os.R_OK):
        yield f"returned {name}, which cannot be read"
    elif stat.S_ISREG(status.st_mode) and _is_pickle(path):
        yield f"returned {name}, a pickle, which can run code when it is read: write weights as safetensors"


def _is_pickle(path: Path) -> bool:
    """Return whether a file is a pickle by its name or by its content."""
    if any(path.match(pattern) for pattern in PICKLES):
        return True
    with path.open("rb") as file:
        start = file.read(len(LEGACY_TORCH_START))
        file.seek(max(0, path.stat().st_size - 1))
        end = file.read(1)
    if start.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(Path(member).name == "data.pkl" for member in archive.namelist())
    return start == LEGACY_TORCH_START or (start.startswith(PICKLE_STARTS) and end == b".")


def _find_missing_files(run: StageContext, staged: StagedArtifact, names: Collection[str]) -> Iterator[str]:
    if staged.form == TRAINABLE:
        try:
            check_checkpoint(staged.folder)
        except ModelError as error:
            yield f"returned no model: {error}"
            return
    elif not names:
        yield f"returned the folder {staged.folder}, which is empty"
        return
    if _has_tokenizer(run.model.folder) and not _has_tokenizer(staged.folder):
        yield "returned a model without a tokenizer: fastserve_core.artifacts.copy_tokenizer copies that of run.model"


def _has_tokenizer(folder: Path) -> bool:
    return any(path.is_file() for pattern in TOKENIZERS for path in folder.glob(pattern))

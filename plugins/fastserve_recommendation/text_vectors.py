"""Vectors of item texts, made once with a model of the user and kept beside an untrained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts import Artifact, expand_user, find_artifact
from fastserve_core.errors import OptionError
from fastserve_core.tasks import load_task
from fastserve_recommendation.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]

VECTORS_FILE = "item_vectors.npy"
CHUNK = 1024
"""Texts whose answers are in memory at once."""


def find_embedder(path: str) -> Artifact:
    """Return the model of a run or an artifact that turns texts into vectors.

    Raises:
        ArtifactError: The path is neither.
        OptionError: Its answers are not vectors.
    """
    artifact = find_artifact(expand_user(path))
    manifest = artifact.manifest
    if not load_task(manifest.task, manifest.task_options, manifest.labels).answer_view.vector:
        raise OptionError(f"task.embedder: {path} is for {manifest.task}: choose a model whose answers are vectors")
    return artifact


def write_vectors(folder: Path, vocabulary: Vocabulary, texts: Mapping[str, str], embedder: str) -> None:
    """Write the text vectors of a vocabulary's items into a model folder; those without a text have zeros.

    Args:
        folder: The folder of an untrained model.
        vocabulary: Its items.
        texts: The texts by item.
        embedder: The run or the artifact of the model that makes the vectors.
    """
    import numpy as np

    described = [number for number, item in enumerate(vocabulary.ids) if item in texts]
    found = embed(find_embedder(embedder), [texts[vocabulary.ids[number]] for number in described])
    vectors = np.zeros((len(vocabulary), found.shape[1]), dtype=np.float32)
    vectors[described] = spread(found)
    np.save(folder / VECTORS_FILE, vectors, allow_pickle=False)


def load_vectors(folder: Path) -> Matrix | None:
    """Return the text vectors of a folder's items, of shape (items, width); ``None`` if it has none."""
    import numpy as np

    path = folder / VECTORS_FILE
    return np.load(path, allow_pickle=False) if path.is_file() else None


def embed(embedder: Artifact, texts: Sequence[str]) -> Matrix:
    """Return a vector of each text, of shape (texts, width)."""
    import numpy as np

    from fastserve_core.inference import Predictor

    predictor = Predictor(embedder)
    name, parts = predictor.task.answer_view.vector, []
    for start in range(0, len(texts), CHUNK):
        answers = predictor.predict(texts[start : start + CHUNK])
        parts.append(np.asarray([answer[name] for answer in answers], dtype=np.float32))
    predictor.close()
    return np.concatenate(parts)


def spread(vectors: Matrix) -> Matrix:
    """Return vectors without their mean and of length 1: those of one model are all alike otherwise."""
    import numpy as np

    centred = vectors - vectors.mean(axis=0) if len(vectors) > 1 else vectors
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    scaled: Matrix = centred / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled

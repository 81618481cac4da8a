"""The epoch's examples of a corpus: segments of documents, in pairs for next-sentence prediction, masked."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fastserve_core.errors import DataError
from fastserve_core.tasks import Encoded
from fastserve_text.documents import sentence_bounds
from fastserve_text.examples import Examples, seed_number
from fastserve_text.masking import Masking

if TYPE_CHECKING:
    import numpy as np

    Numbers = np.ndarray[Any, Any]

RANDOM_NEXT_PROBABILITY = 0.5
"""How many of the pairs have a second segment from another document."""
Span = tuple[int, int, int]
"""A segment: the number of its document, and where it begins and ends in tokens."""
NO_SECOND: Span = (0, 0, 0)
FIELDS = 2 * len(NO_SECOND) + 1


@dataclass(frozen=True)
class Target:
    """The true ids of the hidden tokens, and whether the second segment is from elsewhere (1) or follows (0)."""

    labels: Numbers
    is_random_next: int


@dataclass(frozen=True)
class ExampleLayout:
    """How an example is laid out: ``[CLS] first [SEP]``, or ``[CLS] first [SEP] second [SEP]``."""

    max_length: int
    paired: bool
    short_fraction: float
    first: int
    separator: int

    @property
    def special(self) -> int:
        """How many tokens of an example are special."""
        return 3 if self.paired else 2

    @property
    def room(self) -> int:
        """How many tokens of the documents fit into one."""
        return self.max_length - self.special


class NextSentenceExamples(Examples):
    """Examples drawn as BERT's are (Devlin et al. 2018); another seed draws others.

    Sentences fill an example up to ``max_length``; ``short_fraction`` of the examples aim for less. The second
    segment of a pair follows the first one, or, in half of the pairs, comes from another document; what would
    have followed then begins the next example. Where the segments lie is drawn at once, in a pass over the
    documents (56 bytes an example); an example is put together and masked when it is asked for. Raises
    ``DataError`` when nothing can be drawn.
    """

    def __init__(self, documents: Sequence[Encoded], seed: str, layout: ExampleLayout, masking: Masking) -> None:
        import numpy as np

        self.documents, self.layout, self.masking, self.seed = documents, layout, masking, seed_number(seed)
        drawn = _Drawing(documents, layout, random.Random(seed)).drawn()
        self.plan = np.frombuffer(drawn, dtype=np.int64).reshape(-1, FIELDS)
        self.lengths = self.plan[:, 2] - self.plan[:, 1] + self.plan[:, 5] - self.plan[:, 4] + layout.special

    @override
    def make(self, number: int) -> Encoded:
        import numpy as np

        plan = self.plan[number].tolist()
        places = [plan[0:3], plan[3:6]][: 2 if self.layout.paired else 1]
        special = np.ones(1, dtype=np.int64)
        ids, begins, types = [special * self.layout.first], [special], [special * 0]
        for kind, (document, begin, end) in enumerate(places):
            inputs = self.documents[document].inputs
            ids += [np.asarray(inputs["input_ids"][begin:end], dtype=np.int64), special * self.layout.separator]
            begins += [np.asarray(inputs["marks"][begin:end], dtype=np.int64), special]
            types.append(np.full(end - begin + 1, kind))
        draw = np.random.default_rng([self.seed, number])
        whole = np.concatenate(ids)
        hidden, labels = self.masking.hide(whole, np.concatenate(begins) > 0, draw)
        inputs = {"input_ids": hidden, "attention_mask": np.ones_like(whole), "token_type_ids": np.concatenate(types)}
        return Encoded(inputs, Target(labels, plan[6]))


class _Drawing:
    """Where the segments of an epoch lie."""

    def __init__(self, documents: Sequence[Encoded], layout: ExampleLayout, draw: random.Random) -> None:
        self.documents, self.layout, self.draw = documents, layout, draw

    def drawn(self) -> array[int]:
        """``FIELDS`` numbers an example: its two segments, and whether the second is from elsewhere."""
        if self.layout.paired and len(self.documents) < 2:
            raise DataError("next-sentence prediction needs two texts or more: task.next_sentence=false does without")
        plan = array("q")
        for number in range(len(self.documents)):
            for first, second, elsewhere in self._examples(number):
                plan.extend((*first, *second, elsewhere))
        if not plan:
            raise DataError("the texts are too short to learn from: none has more than one word")
        return plan

    def _examples(self, number: int) -> Iterator[tuple[Span, Span, int]]:
        bounds, at = self._bounds(number), 0
        units = len(bounds) - 1
        while units - at >= (2 if self.layout.paired else 1):
            target = self._target()
            end = _filled(bounds, at, target)
            if not self.layout.paired:
                yield (number, bounds[at], bounds[end]), NO_SECOND, 0
                at = end
                continue
            end = max(end, at + 2)  # two units always fit: each is at most half of the room
            split = self.draw.randrange(at + 1, end)
            first = (number, bounds[at], bounds[split])
            other = self._elsewhere(number, target, first) if self.draw.random() < RANDOM_NEXT_PROBABILITY else None
            yield first, other or (number, bounds[split], bounds[end]), int(other is not None)
            # a last unit that is left alone goes with the one before it
            at = split if other else end - (units - end == 1)

    def _elsewhere(self, number: int, target: int, first: Span) -> Span | None:
        """A segment of another document that is not its beginning, since no real second segment is one either."""
        other = self.draw.randrange(len(self.documents) - 1)
        other += other >= number
        bounds = self._bounds(other)
        if bounds[-1] == 0:
            return None
        taken = first[2] - first[1]
        at = self.draw.randrange(1, len(bounds) - 1) if len(bounds) > 2 else 0
        end = _filled(bounds, at, target - taken)
        return other, bounds[at], min(bounds[end], bounds[at] + self.layout.room - taken)

    def _bounds(self, number: int) -> list[int]:
        return sentence_bounds(self.documents[number].inputs["marks"], self.layout.room // 2, self.draw)

    def _target(self) -> int:
        room = self.layout.room
        return self.draw.randint(2, room) if self.draw.random() < self.layout.short_fraction else room


def _filled(bounds: Sequence[int], at: int, target: int) -> int:
    """The unit before which to stop, so that those from ``at`` on fill the target; at least one is taken."""
    end = at + 1
    while end < len(bounds) - 1 and bounds[end + 1] - bounds[at] <= target:
        end += 1
    return end

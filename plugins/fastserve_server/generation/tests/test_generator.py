"""Texts from a real model, many at a time: each is what it would be alone, whoever came and went meanwhile."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve_core.artifacts import Artifact
from fastserve_core.errors import DataError
from fastserve_core.tasks import KV_BLOCK_SIZE, DecodeEngine, GeneratedText, GenerationRequest, Sampling, SequenceChunk
from fastserve_engines.torch_engine import TorchEngine
from fastserve_server.generation.generator import GenerationEngine
from fastserve_server.generation.jobs import TextSequence, collect
from fastserve_server.generation.scheduling import SkipJoinMLFQ
from fastserve_server.generation.stop_strings import StopStringFilter
from fastserve_server.options import ServingOptions
from fastserve_server.requests import EngineError, QueueFullError, UnavailableError
from fastserve_server.tests.conftest import make_artifact
from fastserve_text.text_codec import ChatTextCodec
from fastserve_text.tokenization import load_tokenizer

GREEDY = Sampling(temperature=0)
BYTES_A_BLOCK = 2 * 2 * KV_BLOCK_SIZE * 32 * 4


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("models") / "tiny-writer", "causal_lm")


class Watched:
    """A real stepper whose passes are seen, and can be held up or made to fail."""

    def __init__(self, stepper: DecodeEngine) -> None:
        self._stepper = stepper
        self.blocks, self.eos_token_ids = stepper.blocks, frozenset[int]()
        self.shares_prefixes, self.checks_guesses = stepper.shares_prefixes, stepper.checks_guesses
        self.sizes: list[int] = []
        self.before: Callable[[Sequence[SequenceChunk]], None] = lambda pieces: None

    def step(self, pieces: Sequence[SequenceChunk]) -> Any:
        self.sizes.append(len(pieces))
        self.before(pieces)
        return self._stepper.step(pieces)

    def close(self) -> None:
        self._stepper.close()


@asynccontextmanager
async def running(folder: Path, blocks: int = 100, **options: Any) -> AsyncIterator[tuple[GenerationEngine, Watched]]:
    made: list[Watched] = []

    def make() -> Watched:
        made.append(Watched(TorchEngine.make_decoder(folder, 1, blocks * BYTES_A_BLOCK)))
        return made[0]

    generator = GenerationEngine(ServingOptions(**options), ChatTextCodec(folder), make, positions=128)
    await generator.start()
    try:
        yield generator, made[0]
    finally:
        await generator.stop()


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(60):
            await scene()

    asyncio.run(timed())


def prompts(count: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(5, 60, int(random.integers(1, 70))).tolist() for _ in range(count)]


@functools.cache
def alone(folder: Path, prompt: tuple[int, ...], most: int) -> list[int]:
    stepper, tokens = TorchEngine.make_decoder(folder, 1, 100 * BYTES_A_BLOCK), list(prompt)
    for _ in range(most):
        tokens.append(int(stepper.step([SequenceChunk(tokens, 0, range(8))])[0].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("guessed", [0, 5])
@pytest.mark.parametrize("scheduler", ["fcfs", "mlfq"])
@pytest.mark.parametrize("blocks", [100, 4], ids=["room for all", "room for one"])
def test_each_text_is_the_same_as_alone(model: Artifact, scheduler: str, blocks: int, guessed: int) -> None:
    async def scene() -> None:
        asked = [GenerationRequest(prompt, 20 + 3 * place, GREEDY) for place, prompt in enumerate(prompts(6))]
        spell = load_tokenizer(model.folder, 1).decode
        expected = [spell(alone(model.folder, tuple(one.prompt), one.max_tokens)) for one in asked]
        async with running(model.folder, blocks, scheduler=scheduler, guessed_tokens=guessed) as (generator, watched):
            first = generator.submit(asked[:2])
            await anext(aiter(first[0]))  # the others come while it is being written
            rest = generator.submit(asked[2:])
            found = await collect(rest)
            assert [one.text for one in found] == expected[2:]
            assert [(one.tokens, one.finish) for one in found] == [(one.max_tokens, "length") for one in asked[2:]]
            assert (await collect(first[1:]))[0].text == expected[1]
            assert generator.in_flight == generator.queue_depth == 0
        assert max(watched.sizes) > (1 if blocks == 100 else 0)

    play(scene)


REPEATED = [11, 12, 13, 14, 15, 16] * 4


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest(REPEATED, 60, GREEDY),
        GenerationRequest(REPEATED, 60, GREEDY, num_logprobs=2),
        GenerationRequest(REPEATED, 7, GREEDY, stops=["zzz"]),
        GenerationRequest(REPEATED, 60, Sampling(temperature=0.7, top_k=3), seed=5),
        GenerationRequest(REPEATED, 60, Sampling(temperature=0, frequency_penalty=0.1, logit_bias={11: 2.0}), seed=5),
    ],
    ids=["greedy", "logprobs", "few tokens", "sampled", "penalties"],
)
def test_guesses_save_passes_and_change_no_text(model: Artifact, request_: GenerationRequest) -> None:
    async def write(guessed: int) -> tuple[list[GeneratedText], int]:
        async with running(model.folder, guessed_tokens=guessed) as (generator, watched):
            return await collect(generator.submit([request_])), len(watched.sizes)

    async def scene() -> None:
        (plain,), passes = await write(0)
        (guessed,), fewer = await write(6)
        assert (guessed.text, guessed.tokens, guessed.finish) == (plain.text, plain.tokens, plain.finish)
        chosen, expected = ([one.logprob for one in text.logprobs] for text in (guessed, plain))
        assert np.allclose(chosen, expected, atol=1e-4)
        if plain.tokens == 60 and request_.sampling == GREEDY:
            assert fewer < 0.6 * passes

    play(scene)


def test_an_end_token_among_right_guesses_ends_the_text(model: Artifact) -> None:
    async def scene() -> None:
        text = alone(model.folder, tuple(REPEATED), 40)
        ends = frozenset(text[25:26])
        for guessed in (0, 6):
            async with running(model.folder, guessed_tokens=guessed) as (generator, watched):
                watched.eos_token_ids = ends
                (found,) = await collect(generator.submit([GenerationRequest(REPEATED, 40, GREEDY)]))
                assert (found.tokens, found.finish) == (text.index(text[25]) + 1, "stop")

    play(scene)


def test_a_seed_gives_the_same_draws_and_an_end_is_an_end(model: Artifact) -> None:
    async def scene() -> None:
        request = GenerationRequest([5, 6, 7], 30, Sampling(temperature=1.5), seed=3)
        async with running(model.folder) as (generator, watched):
            first, second, other = await collect(
                generator.submit(
                    [request, request, GenerationRequest([5, 6, 7], 30, Sampling(temperature=1.5), seed=4)]
                )
            )
            assert first == second != other
            ends = alone(model.folder, (5, 6, 7), 1)
            watched.eos_token_ids = frozenset(ends)
            stopped, going = await collect(
                generator.submit(
                    [GenerationRequest([5, 6, 7], 9, GREEDY), GenerationRequest([5, 6, 7], 9, GREEDY, ignore_eos=True)]
                )
            )
            assert stopped == GeneratedText("", 1, "stop")
            assert (going.tokens, going.finish) == (9, "length")

    play(scene)


def test_cancelled_requests_free_their_memory(model: Artifact) -> None:
    async def scene() -> None:
        async with running(model.folder, max_queue=2, max_batch=1, max_inputs=2) as (generator, watched):
            streams = generator.submit([GenerationRequest([5], 100, GREEDY)])
            await anext(aiter(streams[0]))
            waiting = generator.submit([GenerationRequest([6], 100, GREEDY), GenerationRequest([7], 100, GREEDY)])
            with pytest.raises(QueueFullError) as full:
                generator.submit([GenerationRequest([8], 1, GREEDY)])
            assert 1 <= full.value.retry_after <= 60
            for one in (*streams, *waiting):
                one.cancel()
            while generator.in_flight:
                await asyncio.sleep(0.01)
            assert len(watched.sizes) < 100
            assert (await collect(generator.submit([GenerationRequest([8], 2, GREEDY)])))[0].tokens == 2

    play(scene)


def test_requests_without_room_are_refused(model: Artifact) -> None:
    async def scene() -> None:
        async with running(model.folder, blocks=2, kv_cache_mb=7) as (generator, _):
            for request, reason in (
                (
                    GenerationRequest([5] * 100, 40),
                    "a prompt of 100 tokens and 40 new ones are more than the model's 128",
                ),
                (GenerationRequest([5] * 60, 40), "need more memory than the 7 MB .* raise serve.kv_cache_mb"),
                (GenerationRequest([], 4), "no tokens that the model knows"),
                (GenerationRequest([5, 4000], 4), "unknown token 4000"),
            ):
                with pytest.raises(DataError, match=reason):
                    generator.submit([GenerationRequest([5], 1), request])
            assert generator.in_flight == 0

    play(scene)


def test_prompts_that_are_too_long_or_too_many_are_refused_before_they_are_encoded(
    model: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    release = threading.Event()
    encode = ChatTextCodec.tokens

    def held(self: ChatTextCodec, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        encoded.extend(texts)
        release.wait(10)
        return encode(self, texts, special)

    monkeypatch.setattr(ChatTextCodec, "tokens", held)

    async def scene() -> None:
        async with running(model.folder, max_queue=2, max_batch=2, max_inputs=2) as (generator, _):
            with pytest.raises(DataError, match="a prompt of 4097 characters is too long: .* 32 for each of the 128"):
                generator.encode(["a film", "a" * 4097])
            waiting = asyncio.ensure_future(asyncio.to_thread(generator.encode, ["a film", "a story", "the end"]))
            while not encoded:
                await asyncio.sleep(0.01)
            assert generator.in_flight == 3
            with pytest.raises(QueueFullError):
                generator.encode(["a film", "a story"])
            release.set()
            assert len(await waiting) == 3
            assert generator.in_flight == 0

    play(scene)
    assert encoded == ["a film", "a story", "the end"]


def test_a_fault_of_the_engine_ends_its_texts_alone(model: Artifact) -> None:
    def fail(pieces: Sequence[SequenceChunk]) -> None:
        raise RuntimeError("no such luck")

    async def scene() -> None:
        async with running(model.folder) as (generator, watched):
            watched.before = fail
            with pytest.raises(EngineError, match="could not continue"):
                await collect(generator.submit([GenerationRequest([5], 3)]))
            watched.before = lambda pieces: None
            assert (await collect(generator.submit([GenerationRequest([5], 3, GREEDY)])))[0].tokens == 3

    play(scene)


def test_a_text_that_cannot_be_spelt_ends_alone(model: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text_filter: StopStringFilter, token: int) -> str:
        raise RuntimeError("no such luck")

    async def scene() -> None:
        async with running(model.folder) as (generator, _):
            with monkeypatch.context() as patch:
                patch.setattr(StopStringFilter, "add", fail)
                with pytest.raises(EngineError, match="could not continue"):
                    await collect(generator.submit([GenerationRequest([5], 3, GREEDY)]))
            assert (await collect(generator.submit([GenerationRequest([5], 3, GREEDY)])))[0].tokens == 3

    play(scene)


def test_a_server_that_cannot_continue_reports_it(model: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(scheduler: SkipJoinMLFQ, now: float) -> list[TextSequence]:
        raise RuntimeError("no such luck")

    async def scene() -> None:
        async with running(model.folder) as (generator, _):
            monkeypatch.setattr(SkipJoinMLFQ, "order", fail)
            with pytest.raises(EngineError, match="an engine worker failed; see the server's log"):
                await collect(generator.submit([GenerationRequest([5], 3, GREEDY)]))
            assert generator.failure
            with pytest.raises(UnavailableError, match="engine worker failed"):
                generator.submit([GenerationRequest([5], 3, GREEDY)])

    play(scene)


def test_the_end_is_told_to_who_waits(model: Artifact) -> None:
    async def scene() -> None:
        async with running(model.folder) as (generator, _):
            streams = generator.submit([GenerationRequest([5], 120, GREEDY)])
            await anext(aiter(streams[0]))
            await generator.stop()
            with pytest.raises(UnavailableError):
                await collect(streams)
            with pytest.raises(UnavailableError):
                generator.submit([GenerationRequest([5], 1)])

    play(scene)


async def write(generator: GenerationEngine, most: int, name: str, ended: list[str]) -> None:
    await collect(generator.submit([GenerationRequest([5, 6], most, GREEDY)]))
    ended.append(name)


@pytest.mark.parametrize(("scheduler", "expected"), [("fcfs", ["long", "short"]), ("mlfq", ["short", "long"])])
def test_which_of_two_texts_ends_first(model: Artifact, scheduler: str, expected: list[str]) -> None:
    """There is a place for one; the long text was asked for first."""

    async def scene() -> None:
        ended: list[str] = []
        async with running(model.folder, max_batch=1, scheduler=scheduler) as (generator, _):
            await asyncio.gather(write(generator, 110, "long", ended), write(generator, 4, "short", ended))
        assert ended == expected

    play(scene)

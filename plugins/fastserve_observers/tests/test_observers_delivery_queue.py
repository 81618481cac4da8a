"""The outbox: all is delivered, in order, however the receiver fails; the one who puts never waits."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve_observers import delivery_queue
from fastserve_observers.delivery_queue import DeliveryQueue
from fastserve_observers.mlflow_batch import Metric, MetricBatch, merge_batches

QUICK = 0.001


@pytest.fixture(autouse=True, scope="module")
def quick() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery_queue, "BATCH_S", QUICK)
        patch.setattr(delivery_queue, "RETRY_S", QUICK)
        yield


def figure(number: int) -> Metric:
    return Metric("loss", number / 10, number, 1e9 + number)


class Receiver:
    """Takes figures one by one, and fails before each one whose number it is given."""

    def __init__(self, fails_at: list[int]) -> None:
        self.fails_at = list(fails_at)
        self.got: list[tuple[str, int]] = []

    def __call__(self, batches: list[MetricBatch]) -> None:
        for batch in batches:
            while batch.metrics:
                step = batch.metrics[0].step
                if step in self.fails_at:
                    self.fails_at.remove(step)
                    raise ConnectionError("away")
                self.got.append((batch.run, step))
                del batch.metrics[0]


@settings(max_examples=50, deadline=None)
@given(
    runs=st.lists(st.sampled_from(["", "trial 0", "trial 1"]), max_size=30),
    fails_at=st.lists(st.integers(0, 29), max_size=3),
)
def test_everything_arrives_once_and_in_the_order_of_its_run(runs: list[str], fails_at: list[int]) -> None:
    receiver, warned = Receiver(fails_at), list[Exception]()
    box = DeliveryQueue(receiver, warned.append)
    for number, run in enumerate(runs):
        box.put(MetricBatch(run, 0.0, [figure(number)]))
    time.sleep((len(fails_at) + 1) * 10 * QUICK)
    box.close(10.0)
    hit = [one for one in fails_at if one < len(runs)]
    # the end makes one more attempt: what fails then is lost, and was warned of
    assert receiver.got == [*dict.fromkeys(receiver.got)]
    for name in set(runs):
        sent = [number for number, run in enumerate(runs) if run == name]
        got = [step for run, step in receiver.got if run == name]
        assert got == sent[: len(got)]
        assert got == sent or warned
    assert len(warned) == min(1, len(hit))


def test_a_receiver_that_comes_back_gets_everything() -> None:
    receiver, warned = Receiver([3, 3, 3]), list[Exception]()
    box = DeliveryQueue(receiver, warned.append)
    for number in range(10):
        box.put(MetricBatch("", 0.0, [figure(number)]))
    end = time.monotonic() + 10
    while len(receiver.got) < 10:
        assert time.monotonic() < end
        time.sleep(QUICK)
    assert [step for _, step in receiver.got] == list(range(10))
    assert [str(one) for one in warned] == ["away"]
    assert box.close(10.0)


def stuck(free: threading.Event) -> None:
    free.wait(10)


def test_a_stuck_receiver_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_queue, "MAX_QUEUE_SIZE", 5)
    free = threading.Event()
    box = DeliveryQueue(lambda batches: stuck(free), print)
    begin = time.monotonic()
    box.put(MetricBatch("", 0.0, [figure(0)]))
    time.sleep(0.05)
    for number in range(20):
        box.put(MetricBatch("", 0.0, [figure(number), figure(number)]))
    box.put(MetricBatch("", 0.0, tags={"status": "done"}))
    assert not box.close(0.05)
    assert time.monotonic() - begin < 1.0
    assert box.lost == 30, "figures are lost when the queue is full; what is no figure is not"
    free.set()


def test_one_parcel_a_run_is_left_of_many() -> None:
    found = merge_batches([
        MetricBatch("", 1.0, [figure(1)], {"lr": "1"}),
        MetricBatch("trial 0", 2.0, [figure(5)], end=("FAILED", 3.0)),
        MetricBatch("", 9.0, [figure(2)], {"seed": "0"}, {"folder": "x"}, ("FINISHED", 4.0)),
    ])  # fmt: skip
    assert found == [
        MetricBatch("", 1.0, [figure(1), figure(2)], {"lr": "1", "seed": "0"}, {"folder": "x"}, ("FINISHED", 4.0)),
        MetricBatch("trial 0", 2.0, [figure(5)], end=("FAILED", 3.0)),
    ]

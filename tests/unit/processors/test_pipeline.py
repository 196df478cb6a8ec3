"""The window: acknowledged in order, after delivery, and never past a failure."""

import asyncio

import pytest

from bus.core.errors import TransientError
from bus.runtime.publisher import Outgoing
from services.processors.engine.pipeline import Pipeline


class Message:
    topic = "bus.canon.customer"


class FakeEvent:
    message = Message()

    def __init__(self, name: str, log: list[str]) -> None:
        self.key, self.value, self._log = name.encode(), name.encode(), log

    def ack(self) -> bool:
        self._log.append(self.key.decode())
        return True


class Bench:
    """A pipeline between a list of events and deliveries that a test ends by hand."""

    def __init__(self, names: str, *, window: int = 1000, records: int = 1) -> None:
        self.acked: list[str] = []
        self.sent: list[str] = []
        self.waits: list[str] = []
        self.crashes: list[BaseException] = []
        self.deliveries: dict[str, asyncio.Future[None]] = {}
        self.failing: dict[str, BaseException] = {}
        self.records = records
        self.queue: asyncio.Queue[FakeEvent] = asyncio.Queue()
        for name in names:
            self.queue.put_nowait(FakeEvent(name, self.acked))
        self.pipeline = Pipeline(self, self._send, window=window)
        self.task = asyncio.ensure_future(self.pipeline.run(self._events(), self._crash))

    def handle(self, topic, key, value):
        if error := self.failing.get(key.decode()):
            raise error
        return [Outgoing("out", None, f"{key.decode()}{number}", value) for number in range(self.records)]

    async def wait(self, error: TransientError) -> None:
        self.waits.append(str(error))
        await asyncio.sleep(0)
        if len(self.waits) == 3:
            self.failing.clear()

    async def _events(self):
        while True:
            yield await self.queue.get()

    async def _send(self, record: Outgoing) -> "asyncio.Future[None]":
        self.sent.append(record.key)
        self.deliveries[record.key] = asyncio.get_running_loop().create_future()
        return self.deliveries[record.key]

    async def _crash(self, error: BaseException) -> None:
        self.crashes.append(error)

    async def turn(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_acknowledged_in_order_of_consumption_whatever_the_order_of_delivery():
    bench = Bench("abc")
    await bench.turn()
    bench.deliveries["c0"].set_result(None)
    bench.deliveries["b0"].set_result(None)
    await bench.turn()
    assert bench.acked == []
    bench.deliveries["a0"].set_result(None)
    await bench.turn()
    assert bench.acked == ["a", "b", "c"]
    await bench.end()


async def test_an_event_counts_when_all_its_records_are_delivered():
    bench = Bench("a", records=2)
    await bench.turn()
    bench.deliveries["a0"].set_result(None)
    await bench.turn()
    assert bench.acked == []
    bench.deliveries["a1"].set_result(None)
    await bench.turn()
    assert bench.acked == ["a"]
    await bench.end()


async def test_an_event_without_records_waits_for_those_before_it():
    bench = Bench("a")
    await bench.turn()
    bench.records = 0
    bench.queue.put_nowait(FakeEvent("b", bench.acked))
    await bench.turn()
    assert bench.acked == []
    bench.deliveries["a0"].set_result(None)
    await bench.turn()
    assert bench.acked == ["a", "b"]
    await bench.end()


async def test_a_failed_delivery_crashes_and_nothing_from_it_on_is_acknowledged():
    bench = Bench("abc")
    await bench.turn()
    bench.deliveries["a0"].set_result(None)
    bench.deliveries["c0"].set_result(None)
    bench.deliveries["b0"].set_exception(ConnectionError("refused by the broker"))
    with pytest.raises(ConnectionError):
        await bench.task
    assert bench.acked == ["a"]
    assert [str(error) for error in bench.crashes] == ["refused by the broker"]


async def test_a_failing_handler_crashes_and_loses_nothing():
    bench = Bench("abc")
    bench.failing["b"] = RuntimeError("database away")
    with pytest.raises(RuntimeError):
        await bench.task
    assert bench.sent == ["a0"]
    assert bench.acked == []
    assert len(bench.crashes) == 1


async def test_a_passing_failure_is_waited_out_in_order():
    bench = Bench("abc")
    bench.failing["b"] = TransientError("registry away")
    await bench.turn()
    assert bench.waits == ["registry away"] * 3
    assert bench.sent == ["a0", "b0", "c0"]
    await bench.end()


async def test_the_window_is_bounded():
    bench = Bench("abcdef", window=3)
    await bench.turn()
    assert bench.sent == ["a0", "b0", "c0"]
    bench.deliveries["a0"].set_result(None)
    await bench.turn()
    assert bench.sent == ["a0", "b0", "c0", "d0"]
    await bench.end()


async def test_before_partitions_go_what_is_on_its_way_is_acknowledged():
    bench = Bench("ab")
    await bench.turn()
    draining = asyncio.ensure_future(bench.pipeline.drain())
    await bench.turn()
    assert not draining.done()
    for delivery in bench.deliveries.values():
        delivery.set_result(None)
    await draining
    assert bench.acked == ["a", "b"]
    await bench.end()

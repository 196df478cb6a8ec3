"""Reads whole topics to their present end, for commands that look things up."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from bus.core import topics
from bus.runtime.codec import Codec
from bus.runtime.reader import BEGINNING, LogReader, Record
from bus.runtime.settings import BusSettings


async def read_all(
    settings: BusSettings, codec: Codec, topic: str, wanted: Callable[[str], bool] = lambda _key: True
) -> AsyncIterator[tuple[Record, Any]]:
    """Records of a topic whose key is wanted, with the decoded value (None for a tombstone), partition by partition in order.

    Others are not decoded: one that is damaged stops nobody who looks for something else.
    """
    async for record in read_raw(settings, topic):
        if wanted(record.key.decode("utf-8", "replace")):
            yield record, await codec.read(topic, record.value) if record.value is not None else None


async def read_raw(settings: BusSettings, topic: str) -> AsyncIterator[Record]:
    """Every record of a topic as it stands there."""
    reader = LogReader(settings, f"look-{topic}")
    try:
        await reader.assign(topic, dict.fromkeys(await reader.partitions(topic), BEGINNING))
        async for batch in reader.read_to(topic, await reader.ends(topic)):
            for record in batch:
                yield record
    finally:
        await reader.close()


async def trace(settings: BusSettings, codec: Codec, key: str) -> list[dict[str, Any]]:
    """One object's way through the bus, in the order of its versions.

    `key` is a canonical key (`connection|entity|id`). Personal data stays sealed: a trace shows ids, hashes, rules and outcomes.
    """
    entity = topics.split_key(key)[1]
    steps: list[dict[str, Any]] = []
    async for _, event in read_all(settings, codec, topics.canonical(entity), key.__eq__):
        if event is not None:
            meta = event.meta
            steps.append(
                _step("event", meta.seq, meta.observed_at, op=str(meta.op), version=meta.source_version, origin=_origin(meta))
            )
    async for _, result in read_all(settings, codec, topics.RESULTS, key.__eq__):
        if result is not None:
            steps.append(
                _step(
                    "result",
                    result.seq,
                    result.ended_at,
                    flow=result.flow,
                    outcome=str(result.outcome),
                    target=f"{result.connection}|{result.target_entity}|{result.external_id or ''}",
                    number=result.number,
                    detail=result.detail,
                    conflicts=result.conflicts,
                    calls=result.calls,
                    added=[{"name": r.name, "line": r.line_id, "value": r.value, "rule": r.rule} for r in result.resolved],
                    totals={"source": str(result.source_total), "target": str(result.target_total)}
                    if result.source_total is not None
                    else None,
                )
            )
    async for _, letter in read_all(settings, codec, topics.DEAD_LETTERS, key.__eq__):
        if letter is not None:
            steps.append(
                _step(
                    "dead letter",
                    letter.seq,
                    letter.made_at,
                    stage=letter.stage,
                    cause=str(letter.cause),
                    detail=letter.detail,
                    hint=letter.hint,
                )
            )
    return sorted(steps, key=lambda step: (step["seq"], step["at"]))


def _origin(meta: Any) -> str | None:
    return f"{meta.origin.connection}|{meta.origin.entity}|{meta.origin.source_id}" if meta.origin else None


def _step(kind: str, seq: int, at: Any, **facts: Any) -> dict[str, Any]:
    return {
        "step": kind,
        "seq": seq,
        "at": at.isoformat(),
        **{name: fact for name, fact in facts.items() if fact not in (None, [], "")},
    }

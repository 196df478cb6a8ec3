"""Opens and closes a brake by request, and sees it happen."""

from collections.abc import Mapping
from typing import Any, Literal

from bus.core import topics
from bus.runtime import requests
from bus.runtime.codec import Codec
from bus.runtime.newest import NewestValues
from bus.runtime.published import read_published
from bus.runtime.settings import BusSettings
from bus.runtime.standings import is_brake_of
from schemas.system import BrakeRecord

Turned = Literal["already", "asked", "done", "unanswered"]


async def turn(
    settings: BusSettings,
    codec: Codec,
    connection: str,
    *,
    flow: str | None,
    reason: str | None,
    close: bool,
    wait_s: float | None,
) -> Turned:
    """Asks the sinks to open or close a brake and waits `wait_s` until bus.state shows it; None: does not wait.

    Order of operations: 1 check the names; 2 read the brake; 3 ask; 4 read on. Raises SettingsError for a connection or flow
    that is not published.
    """
    configuration = (await read_published(settings, codec)).configuration  # 1
    requests.require_connection(configuration, connection)
    if flow is not None:
        requests.require_flow(configuration, flow, target=connection)
    slot = topics.slot_of(connection, settings.slots)
    async with NewestValues(settings, codec, topics.STATE, is_brake_of(connection), partitions=[slot]) as newest:  # 2
        if _is_so(newest.values, flow, close=close):
            return "already"
        await requests.ask(settings, codec, [requests.brake(connection, close=close, flow=flow, reason=reason)])  # 3
        if wait_s is None:
            return "asked"
        seen = await newest.until(lambda values: _is_so(values, flow, close=close) or None, wait_s)  # 4
    return "done" if seen else "unanswered"


def _is_so(values: Mapping[str, Any], flow: str | None, *, close: bool) -> bool:
    """Whether a brake is closed, or open by hand: one that opened by itself closes by itself, and a person wants more."""
    records: list[BrakeRecord] = [value.brake for value in values.values() if value.brake is not None]
    found = next((record for record in records if record.flow == (flow or "")), None)
    if close:
        return found is None or not found.open
    return found is not None and found.open and found.by_hand

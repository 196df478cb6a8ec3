"""Has what waits tried now."""

from collections import defaultdict
from collections.abc import Sequence

from bus.runtime import requests
from bus.runtime.codec import Codec
from bus.runtime.settings import BusSettings
from bus.runtime.standings import WAITS, Selection, Stands, standing_objects
from schemas.system import RequestRecord


async def release_now(settings: BusSettings, codec: Codec, selection: Selection) -> list[Stands]:
    """Asks the sinks to try the objects that wait and are meant; returns them. Where none is, nothing is asked."""
    found = await standing_objects(settings, codec, WAITS, selection)
    if found:
        await requests.ask(settings, codec, release_requests(found, selection))
    return found


def release_requests(found: Sequence[Stands], selection: Selection) -> list[RequestRecord]:
    """A request for each target account. Keys go along only where some were named: else whatever comes to wait meanwhile is
    tried as well, which does no harm."""
    keys: defaultdict[str, list[str]] = defaultdict(list)
    for item in found:
        keys[item.connection].append(item.key)
    cause = str(selection.cause) if selection.cause is not None else None
    return [
        made
        for connection in sorted(keys)
        for made in requests.release(
            connection, flow=selection.flow, cause=cause, keys=sorted(set(keys[connection])) if selection.keys else ()
        )
    ]

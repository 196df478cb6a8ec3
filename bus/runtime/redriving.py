"""Tries again what was set aside: which requests bring dead letters back.

They are chosen by what stands DEAD now, so a letter whose object went through since is left alone, and a second redrive after
a good first one chooses nothing. What a flow could not write is replayed from the log; what a poller could not map is read anew.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec

from bus.core import topics
from bus.core.configuration import Configuration
from bus.runtime import requests
from bus.runtime.codec import Codec
from bus.runtime.deadletters import POLLER, Listed, open_letters
from bus.runtime.published import read_published
from bus.runtime.settings import BusSettings
from bus.runtime.standings import Selection
from schemas.system import RequestRecord

REASON = "redrive"


class Redrive(msgspec.Struct, frozen=True, kw_only=True):
    """What a redrive chose, and what it asks for."""

    letters: Sequence[Listed]
    requests: Sequence[RequestRecord]
    left_out: Sequence[tuple[Listed, str]] = ()
    """Letters that nothing can bring back, and why."""

    def counts(self) -> Counter[tuple[str, str]]:
        """Objects by flow (`polling CONNECTION` where no flow was met) and cause."""
        return Counter((item.flow or f"polling {item.connection}", str(item.cause)) for item in self.letters)


def choose(letters: Sequence[Listed], selection: Selection) -> list[Listed]:
    """The letters an operator means."""
    return [
        item
        for item in letters
        if selection.takes(connection=item.connection, flow=item.flow, cause=item.cause, key=item.key, at=item.made_at)
    ]


def redrive(letters: Sequence[Listed], configuration: Configuration, *, rate_per_s: int | None = None) -> Redrive:
    """The requests for open letters: at most 500 objects each, in the order in which the letters were written."""
    chosen, left_out = [], []
    replays: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    resyncs: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for item in letters:
        why = _hindrance(item, configuration)
        if why is not None:
            left_out.append((item, why))
            continue
        chosen.append(item)
        connection, entity, source_id = topics.split_key(item.key)
        if item.flow is not None:
            replays[connection, entity, item.flow].append(source_id)
        else:
            # The same content as before the letter makes no event by itself, and without one the letter would stay open.
            resyncs[connection, entity, "all" if item.has_content else "changed"].append(source_id)
    asked = [
        made
        for (connection, entity, flow), ids in replays.items()
        for made in requests.replay(connection, flow=flow, entity=entity, keys=ids, rate_per_s=rate_per_s, reason=REASON)
    ] + [
        made
        for (connection, entity, publish), ids in resyncs.items()
        for made in requests.resync(connection, entity=entity, keys=ids, publish=publish)
    ]
    return Redrive(letters=chosen, requests=asked, left_out=left_out)


def _hindrance(item: Listed, configuration: Configuration) -> str | None:
    if item.flow is None and item.stage != POLLER:
        return "nobody could read its bytes, so nobody knows its flow"
    source = topics.split_key(item.key)[0]
    if source not in configuration.connections:
        return f"its source {source} is no longer published"
    if item.flow is not None and item.flow not in configuration.flows:
        return f"its flow {item.flow} is no longer published"
    return None


async def redrive_letters(
    settings: BusSettings, codec: Codec, selection: Selection, *, rate_per_s: int | None = None, dry_run: bool = False
) -> Redrive:
    """Chooses among the open letters and asks for them to be tried again; a dry run asks for nothing."""
    configuration = (await read_published(settings, codec)).configuration
    found = redrive(choose(await open_letters(settings, codec), selection), configuration, rate_per_s=rate_per_s)
    if found.requests and not dry_run:
        await requests.ask(settings, codec, found.requests)
    return found

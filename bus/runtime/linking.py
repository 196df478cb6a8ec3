"""Joins two objects by a person's word, or has a write whose end nobody can tell counted as not made."""

from collections.abc import Mapping
from typing import Any, Literal

from bus.core import topics
from bus.core.configuration import Configuration
from bus.core.errors import SettingsError
from bus.runtime import requests
from bus.runtime.codec import Codec
from bus.runtime.newest import NewestValues
from bus.runtime.published import read_published
from bus.runtime.settings import BusSettings
from bus.runtime.state import intent_key, link_key, object_key
from schemas.system import IntentRecord, IntentState, LinkedBy, LinkRecord, LinkState, ObjectRef

Linked = Literal["already", "asked", "done", "unanswered"]


async def link(
    settings: BusSettings, codec: Codec, source: ObjectRef, target: ObjectRef, *, facet: str | None, wait_s: float | None
) -> Linked:
    """Asks for two objects to be joined and waits `wait_s` until bus.state shows it; None: does not wait.

    Raises SettingsError for accounts that are not published or not of one tenant, and for a customer, product or category that
    nobody has seen at the target.
    """
    await _require_pair(settings, codec, source, target.connection)
    key = link_key(target.connection, target.entity, source, facet)
    known = object_key(target.connection, target.entity, target.id)

    def is_linked(values: Mapping[str, Any]) -> bool:
        found: LinkRecord | None = values[key].link if key in values else None
        return (
            found is not None
            and found.external_id == target.id
            and found.state is LinkState.ACTIVE
            and found.linked_by is LinkedBy.MANUAL
        )

    slot = topics.slot_of(target.connection, settings.slots)
    async with NewestValues(settings, codec, topics.STATE, {key, known}.__contains__, partitions=[slot]) as newest:
        if is_linked(newest.values):
            return "already"
        if target.entity not in topics.DOCUMENTS and known not in newest.values:
            raise SettingsError(
                f"no {target.entity} {target.id!r} is known at {target.connection}: write its id as the vendor has it; "
                f"one just made there is known after `bus poll {target.connection} --now`"
            )
        asked = requests.link(target.connection, entity=target.entity, source=source, external_id=target.id, facet=facet)
        await requests.ask(settings, codec, [asked])
        if wait_s is None:
            return "asked"
        seen = await newest.until(lambda values: is_linked(values) or None, wait_s)
    return "done" if seen else "unanswered"


async def nothing_made(
    settings: BusSettings,
    codec: Codec,
    source: ObjectRef,
    *,
    connection: str,
    entity: str,
    facet: str | None,
    wait_s: float | None,
) -> Linked:
    """Says that an unclear write made nothing, so that it may be made again; waits until its intent is closed.

    `already`: no write of the object is unclear. Raises SettingsError for accounts that are not published or not of one tenant.
    """
    await _require_pair(settings, codec, source, connection)
    key = intent_key(connection, entity, source, facet)

    def is_open(values: Mapping[str, Any]) -> bool:
        found: IntentRecord | None = values[key].intent if key in values else None
        return found is not None and found.state is IntentState.OPEN

    slot = topics.slot_of(connection, settings.slots)
    async with NewestValues(settings, codec, topics.STATE, key.__eq__, partitions=[slot]) as newest:
        if not is_open(newest.values):
            return "already"
        asked = requests.link(connection, entity=entity, source=source, external_id=None, facet=facet)
        await requests.ask(settings, codec, [asked])
        if wait_s is None:
            return "asked"
        closed = await newest.until(lambda values: (not is_open(values)) or None, wait_s)
    return "done" if closed else "unanswered"


async def _require_pair(settings: BusSettings, codec: Codec, source: ObjectRef, target: str) -> None:
    """Two accounts that may have objects in common."""
    configuration: Configuration = (await read_published(settings, codec)).configuration
    tenants = [requests.require_connection(configuration, name).tenant for name in (source.connection, target)]
    if source.connection == target:
        raise SettingsError(f"both keys are of {target}: a link joins objects of two accounts")
    if tenants[0] != tenants[1]:
        raise SettingsError(
            f"{source.connection} is of tenant {tenants[0]} and {target} of {tenants[1]}: nothing goes from one tenant to another"
        )

"""Which objects of a source account are looked at, and through which flows."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from bus.core import topics
from bus.core.errors import SettingsError
from schemas.canon import EventMeta
from services.processors.routes import Route, Routes

OBJECTS_MAX = 20_000
"""Objects one look takes up: each is held in memory with what its target holds. What is left out is counted and said."""

Asked = Literal["replay", "redrive", "resync"]
"""What a person wants to know the effect of."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Objects of one source account; what is empty chooses everything."""

    connection: str
    flows: tuple[str, ...] = ()
    entity: str | None = None
    keys: tuple[str, ...] = ()
    """Ids at the source."""
    since: datetime | None = None
    """By the time an event was observed."""
    until: datetime | None = None
    repair: bool = False
    """Whether every field the flow owns is compared, not only what the source changed since it was settled."""
    asked: Asked = "replay"
    objects_max: int = OBJECTS_MAX

    def takes(self, meta: EventMeta) -> bool:
        """Whether an event is of the time that is asked for."""
        return (self.since is None or meta.observed_at >= self.since) and (self.until is None or meta.observed_at <= self.until)

    def wanted_key(self, entity: str) -> Callable[[str], bool]:
        """Whether a canonical key of an entity is chosen."""
        prefix = f"{topics.key(self.connection, entity)}|"
        chosen = frozenset(topics.event_key(self.connection, entity, source_id) for source_id in self.keys)
        return (lambda key: key in chosen) if chosen else (lambda key: key.startswith(prefix))


def chosen_routes(routes: Routes, selection: Selection) -> list[Route]:
    """The flows a selection goes through. Raises SettingsError for a connection, entity or flow that there is not."""
    if selection.connection not in routes.connections:
        known = ", ".join(sorted(routes.connections)) or "none"
        raise SettingsError(f"unknown connection {selection.connection!r}: there are {known}")
    every = [
        route for (source, _), found in sorted(routes.by_source.items()) for route in found if source == selection.connection
    ]
    names = {route.flow.name for route in every}
    if unknown := sorted(set(selection.flows) - names):
        raise SettingsError(f"no flow {unknown[0]!r} reads {selection.connection}: there are {_listed(names)}")
    if selection.entity is not None and selection.entity not in topics.ENTITIES:
        raise SettingsError(f"unknown entity {selection.entity!r}: there are {', '.join(topics.ENTITIES)}")
    return [
        route
        for route in every
        if (not selection.flows or route.flow.name in selection.flows) and selection.entity in (None, route.flow.from_.entity)
    ]


def _listed(names: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(names)) or "none"

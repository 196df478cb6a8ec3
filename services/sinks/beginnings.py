"""Creates that have begun and not ended: nobody else makes an object that answers to one of their match keys (law 7).

Locks keep two writers of one key apart while both live in one process. A create whose answer was lost, or whose owner died, holds
no lock any more, and the vendor's search may not find yet what it made.
"""

from collections.abc import Collection

from bus.core import topics
from bus.core.errors import MissingDependency
from bus.core.identity import match_keys
from schemas.system import IntentRecord, ObjectRef
from services.sinks.task import Document, Target, open_task

REMEMBERED_MAX = 1_000
"""Keys of creates remembered; those that have ended are forgotten first."""

Begun = tuple[str, ObjectRef, str | None]


class Beginnings:
    """The open creates of one account, by what they can be matched by."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._keys: dict[Begun, frozenset[str]] = {}

    def need_none(self, entity: str, source: ObjectRef, facet: str | None, keys: Collection[str]) -> None:
        """Called under the locks of `keys`, before anything is searched. Raises MissingDependency while another create of one of
        them is open; else this one counts as begun."""
        wanted = _unlike(keys)
        for intent in self._target.state.open_intents():
            is_other = intent.entity == entity and intent.external_id is None and intent.source != source
            if is_other and wanted & self._keys_of(intent):
                raise MissingDependency(
                    f"a write of {intent.source.id}, which may be the same {entity}, has begun and not ended",
                    missing=[f"{entity}|source:{intent.source.connection}:{intent.source.id}"],
                    hint="nothing to do: it goes on when that write has ended",
                )
        self._remember((entity, source, facet), wanted)

    def _keys_of(self, intent: IntentRecord) -> frozenset[str]:
        """Those of its document; an earlier owner's are read from its command."""
        begun = (intent.entity, intent.source, intent.facet)
        if begun not in self._keys:
            command = self._target.codec.decode(topics.outbound(self._target.state.connection), intent.command)
            document = open_task(self._target, command, intent.command).document
            made = document.customer if isinstance(document, Document) and intent.entity == "customer" else document
            self._remember(begun, _unlike(match_keys(made, self._target.hasher)) if made is not None else frozenset())
        return self._keys[begun]

    def _remember(self, begun: Begun, keys: frozenset[str]) -> None:
        if len(self._keys) >= REMEMBERED_MAX:
            open_now = {(intent.entity, intent.source, intent.facet) for intent in self._target.state.open_intents()}
            self._keys = {place: known for place, known in self._keys.items() if place in open_now}
        self._keys[begun] = keys


def _unlike(keys: Collection[str]) -> frozenset[str]:
    """Keys that no two objects share; a kind beside an address tells nothing more."""
    return frozenset(key for key in keys if not key.startswith("email+kind"))

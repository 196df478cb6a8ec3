"""What commands would come to, told by the processors' and the sinks' own code on what the bus knows."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec

from bus.core import topics
from bus.core.clock import Clock
from bus.core.errors import MissingDependency, RecordError, TransientError
from bus.core.identity import Entity, Hasher, field_values
from bus.kit.connector import Write
from bus.runtime.state import AccountState
from schemas.system import Cause, Command, CommandKind, IntentState, LinkState, ObjectRef, Outcome, Standing, StandingRecord
from services.comparison.documents import document_differences, summary
from services.comparison.fields import FieldDifference, differences
from services.comparison.rehearsal import CannotCompare, RecordedAccount, Unread, WouldWrite, rehearsing
from services.processors.handler import Handler
from services.processors.routes import Route, Routes
from services.sinks.carrying import Carrier
from services.sinks.desired import facet_of_type, has_place, value_of, with_values
from services.sinks.settlement import Settlement, is_stale
from services.sinks.task import Document, Opener

What = Literal["create", "update", "deactivate", "delete", "link", "nothing", "filtered", "waits", "dead", "cannot compare"]
WHATS: tuple[What, ...] = get_args(What)
ROUNDS_MAX = 6
"""An object may lead to others of the target (a match, a debtor), each looked up in one more reading of its topic."""
CURRENCY_LOOKS_MAX = 50
ASKED = "dry-run"
NOT_ASKED = "the vendor's own search, which comes first, was not asked"


class Foreseen(msgspec.Struct, frozen=True, kw_only=True):
    """What one object would come to in one flow."""

    flow: str
    source: ObjectRef
    what: What
    target: str | None = None
    """Id of the target object, where there is one."""
    detail: str | None = None
    cause: Cause | None = None
    fields: list[FieldDifference] = []


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One target account as it is rehearsed with."""

    recorded: RecordedAccount
    state: AccountState
    hasher: Hasher


class Foresight:
    """Foresees commands. Everything it knows was read before; `unread` tells what it would have to know besides."""

    def __init__(self, accounts: Mapping[str, Account], routes: Routes, codec: Any, privacy: Opener, clock: Clock) -> None:
        self._accounts = accounts
        self._routes = routes
        self._codec = codec
        self._privacy = privacy
        self._clock = clock
        self._carriers: dict[str, Carrier] = {}

    def open(self, currencies: Mapping[str, str | None]) -> None:
        """Begins; `currencies` are the accounts' own, by connection."""
        self._carriers = {
            name: rehearsing(
                account.recorded, account.state, currencies.get(name), self._clock, account.hasher, self._privacy, self._codec
            )
            for name, account in self._accounts.items()
        }

    def commands(self, chosen: Sequence[Route], entity: str, key: str, raw: bytes) -> list[tuple[Route, Command, bytes]]:
        """What the processors would make of an event, in the chosen flows."""
        by_name = {route.flow.name: route for route in chosen if route.flow.from_.entity == entity}
        found = []
        for record in Handler(self._codec).handle(topics.canonical(entity), key, raw, self._routes):
            if not record.topic.startswith("bus.outbound.") or record.value is None:
                continue
            command: Command = self._codec.decode(record.topic, record.value)
            if command.kind is CommandKind.WRITE and command.flow in by_name:
                found.append((by_name[command.flow], command, record.value))
        return found

    async def foresee(self, route: Route, command: Command, raw: bytes) -> Foreseen:
        """What the sink would do. Raises Unread where an event of the target must be looked up first."""
        account, carrier = self._accounts[route.flow.to.connection], self._carriers[route.flow.to.connection]
        assert command.source and command.flow and command.target_entity
        before = account.state.standing(command.flow, command.source)
        base = Foreseen(flow=command.flow, source=command.source, what="nothing")
        if before is not None and is_stale(command, before):
            return msgspec.structs.replace(base, detail="a newer version has settled already", target=before.external_id)
        if self._has_open_write(account.state, command):
            return msgspec.structs.replace(base, what="waits", detail="an earlier write of this object has not ended")
        account.recorded.asked = False
        try:
            end = await carrier.carry_out(command, raw)
        except WouldWrite as would:
            return self._write(base, account, would, command)
        except Unread:
            raise
        except CannotCompare as error:
            return msgspec.structs.replace(base, what="cannot compare", detail=str(error))
        except MissingDependency as missing:
            asked = f" ({NOT_ASKED})" if account.recorded.asked else ""
            return msgspec.structs.replace(base, what="waits", detail=f"{missing}{asked}", cause=missing.cause)
        except TransientError as error:
            return msgspec.structs.replace(base, what="waits", detail=str(error))
        except RecordError as error:
            return msgspec.structs.replace(base, what="dead", detail=str(error), cause=error.cause)
        except Exception as error:  # law 10: a bug on one object stops the look at no other
            return msgspec.structs.replace(base, what="dead", detail=f"{type(error).__name__}: a bug", cause=Cause.BUG)
        return await self._settled(base, account, command, end, before)

    @staticmethod
    def _has_open_write(state: AccountState, command: Command) -> bool:
        assert command.source and command.target_entity
        facets = {None, facet_of_type(value_of(command, "type")), *state.facets(command.target_entity, command.source)}
        found = (state.intent(command.target_entity, command.source, facet) for facet in facets)
        return any(intent is not None and intent.state is IntentState.OPEN for intent in found)

    def _write(self, base: Foreseen, account: Account, would: WouldWrite, command: Command) -> Foreseen:
        write, details = would.write, []
        if write.action != "create":
            what: What = write.action
            fields = differences(write.fields or (), write.document, would.target) if write.action == "update" else []
            return msgspec.structs.replace(base, what=what, target=write.external_id, fields=fields)
        if write.entity != command.target_entity:
            details.append(f"its {write.entity} is made first, and what follows is not foreseen")
        if account.recorded.asked:
            details.append(f"unless the vendor holds it already: {NOT_ASKED}")
        document = self._document(command) if write.entity != command.target_entity else write.document
        fields = (
            summary(document, value_of(command, "reference"))
            if isinstance(document, Document)
            else differences(_placed(account.recorded, write), write.document, None)
        )
        return msgspec.structs.replace(base, what="create", detail="; ".join(details) or None, fields=fields)

    def _document(self, command: Command) -> Entity:
        assert command.source and command.event
        event = self._codec.decode(topics.canonical(command.source.entity), command.event)
        return with_values(self._privacy.open(event.after), command.resolved)

    async def _settled(
        self, base: Foreseen, account: Account, command: Command, end: Settlement, before: StandingRecord | None
    ) -> Foreseen:
        """A command that ends without a call: it is refused, or there is nothing to write."""
        if end.kept is not None or (end.standing is Standing.WRITTEN and end.external_id and _is_document(command)):
            return await self._written(base, account, command, end)
        what: What = "nothing"
        if end.standing is Standing.DEAD:
            what = "dead"
        elif end.standing is Standing.FILTERED:
            what = "filtered"
        elif end.outcome is Outcome.LINKED and (before is None or before.outcome is not Outcome.LINKED):
            what = "link"
        return msgspec.structs.replace(base, what=what, target=end.external_id, detail=end.detail, cause=end.cause)

    async def _written(self, base: Foreseen, account: Account, command: Command, end: Settlement) -> Foreseen:
        """A document stands at the target: nothing is written; how it compares is told where it can be."""
        assert end.external_id and command.target_entity
        base = msgspec.structs.replace(base, target=end.external_id)
        if command.event is None or (command.reason or ""):
            return msgspec.structs.replace(base, detail=end.detail)
        try:
            record = await account.recorded.fetch(command.target_entity, end.external_id)
        except Unread:
            if account.recorded.knows(command.target_entity, end.external_id):
                return msgspec.structs.replace(base, detail="written earlier; cannot compare: it was never polled there")
            raise
        if record is None:
            return msgspec.structs.replace(base, detail="written earlier; it was deleted there and is not made again")
        ours, theirs = self._document(command), account.recorded.to_canonical(record)
        assert isinstance(ours, Document) and isinstance(theirs, Document)
        off = document_differences(ours, theirs, reference=value_of(command, "reference"), number=end.number)
        detail = "written earlier; differs, and a document is written once" if off else "written earlier; agrees"
        return msgspec.structs.replace(base, detail=detail, fields=off)


def _is_document(command: Command) -> bool:
    return command.target_entity in topics.DOCUMENTS


def _placed(recorded: RecordedAccount, write: Write) -> list[str]:
    """Paths of a new object that have a place there."""
    facts = recorded.manifest.writes[write.entity]
    return [path for path, _ in field_values(write.document) if has_place(path, facts)]


async def foresee_all(
    foresight: Foresight,
    accounts: Mapping[str, Account],
    chosen: Sequence[Route],
    events: Mapping[str, Mapping[str, bytes]],
    codec: Any,
    look_up: Any,
    *,
    repair: bool = False,
) -> list[Foreseen]:
    """Every chosen event through every chosen flow. `look_up(connection, entity, ids)` reads events of a target once more.

    Steps: 1 the commands; 2 what their links lead to is looked up at once; 3 each is rehearsed; what meets an object that was not
    looked up waits for the next round.
    """
    # 1
    waiting: list[tuple[Route, Command, bytes]] = []
    for entity, found in events.items():
        for key, raw in found.items():
            for route, command, framed in foresight.commands(chosen, entity, key, raw):
                asked = msgspec.structs.replace(command, request=ASKED, repair=repair)  # as it would come, asked for
                waiting.append((route, asked, framed))
    # 2
    unread: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for route, command, _ in waiting:
        state = accounts[route.flow.to.connection].state
        assert command.source and command.target_entity
        for external_id in linked_ids(state, command):
            unread[route.flow.to.connection, command.target_entity].add(external_id)
    for name, account in accounts.items():
        unread[name, "customer"].update(_currency_examples(account))
    await _look_up_all(unread, look_up)
    foresight.open({name: home_currency(account) for name, account in accounts.items()})
    # 3
    items: list[Foreseen] = []
    for _ in range(ROUNDS_MAX):
        again: list[tuple[Route, Command, bytes]] = []
        unread.clear()
        for route, command, framed in waiting:
            try:
                items.append(await foresight.foresee(route, command, framed))
            except Unread as error:
                connection = route.flow.to.connection
                if accounts[connection].recorded.knows(error.entity, error.external_id):
                    items.append(_cannot(command, str(error)))
                    continue
                unread[connection, error.entity].add(error.external_id)
                again.append((route, command, framed))
        if not again:
            break
        await _look_up_all(unread, look_up)
        waiting = again
    else:
        items += [_cannot(command, "it leads to too many objects of the target") for _, command, _ in waiting]
    return sorted(items, key=lambda item: (item.flow, item.source.entity, item.source.id))


async def _look_up_all(unread: Mapping[tuple[str, str], set[str]], look_up: Any) -> None:
    for (connection, entity), ids in sorted(unread.items()):
        if ids:
            await look_up(connection, entity, sorted(ids))


def _cannot(command: Command, why: str) -> Foreseen:
    assert command.flow and command.source
    return Foreseen(flow=command.flow, source=command.source, what="cannot compare", detail=why)


def linked_ids(state: AccountState, command: Command) -> list[str]:
    """Target objects that a command's source object is linked with, whatever the facet."""
    assert command.source and command.target_entity
    facets = [None, *state.facets(command.target_entity, command.source)]
    links = (state.link(command.target_entity, command.source, facet) for facet in facets)
    return [link.external_id for link in links if link is not None and link.state is not LinkState.RETIRED]


# --- the currency of an account ------------------------------------------------------------------------------------------


def _currency_examples(account: Account) -> list[str]:
    """Some customers whose link bears no currency: theirs is the account's own."""
    facts = account.recorded.manifest.writes.get("customer")
    if facts is None or facts.facet != "currency":
        return []
    plain = {link.external_id for link in account.state.links() if link.entity == "customer" and not link.facet}
    return sorted(plain)[:CURRENCY_LOOKS_MAX]


def home_currency(account: Account) -> str | None:
    """The account's own currency, told by what its customers without a facet have; None where nothing tells."""
    found: Counter[str] = Counter()
    for external_id in _currency_examples(account):
        held = account.recorded.peek("customer", external_id)
        if (currency := getattr(held, "currency", None)) is not None:
            found[currency] += 1
    return found.most_common(1)[0][0] if found else None

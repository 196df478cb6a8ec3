"""In-memory stand-ins for our own interfaces, with every point at which a process can die."""

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from bus.core import topics
from bus.core.errors import NetworkFailure
from bus.core.identity import Entity
from bus.kit.connector import Account, Found, Match, Page, RawRecord, Step, StepResult, Write
from bus.kit.manifest import Manifest
from schemas import canon
from schemas.system import IdempotencyClass

_JSON = msgspec.json.Encoder(order="sorted")


class Killed(BaseException):
    """The process died here."""


class Deaths:
    """Counts the points at which a process can die, and dies at the chosen one."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.passed = 0
        self.names: list[str] = []

    def point(self, name: str) -> None:
        self.passed += 1
        self.names.append(name)
        if self.at is not None and self.passed == self.at:
            self.at = None
            raise Killed(name)


class DeathAt(Deaths):
    """Dies once, where a point of a name is first passed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name: str | None = name

    def point(self, name: str) -> None:
        super().point(name)
        if name == self.name:
            self.name = None
            raise Killed(name)


class FakeCodec:
    """Keeps the objects; the bytes are their number."""

    def __init__(self) -> None:
        self._objects: dict[bytes, Any] = {}
        self._numbers = itertools.count()

    def encode(self, topic: str, value: Any) -> bytes:
        raw = b"#%d" % next(self._numbers)
        if hasattr(value, "raw_hash"):
            raw += b"|" + value.raw_hash.encode()
        self._objects[raw] = value
        return raw

    def frame(self, topic: str) -> bytes:
        """No bytes begin so: nothing is picked out of them, all is decoded."""
        return b"no bytes"

    def decode(self, topic: str, raw: bytes) -> Any:
        return self._objects[raw]

    async def read(self, topic: str, raw: bytes) -> Any:
        return self.decode(topic, raw)

    async def learn(self, schema_id: int) -> None:
        return None


class FakePrivacy:
    """Leaves personal data as it is."""

    def open(self, entity: Any) -> Any:
        return entity

    async def seal(self, entity: Any, tenant: str, connection: str) -> tuple[Any, list[Any]]:
        return entity, []

    def seal_bytes(self, data: bytes, *, tenant: str, connection: str) -> tuple[Any, list[Any]]:
        return canon.Sealed(key_id="key", blob=data), []

    def records(self, keys: Any, codec: Any) -> list[Any]:
        return []

    def published(self, keys: Any) -> None:
        return None


class FakeLog:
    """Committed records per topic, in order; the publisher of every owner writes here."""

    def __init__(self, deaths: Deaths | None = None) -> None:
        self.records: list[Any] = []
        self.deaths = deaths or Deaths()

    async def commit(self, records: Sequence[Any]) -> None:
        self.deaths.point("before commit")
        self.records.extend(records)
        self.deaths.point("after commit")

    def topic(self, name: str) -> list[Any]:
        return [record for record in self.records if record.topic == name]


class FakePictures:
    """The pictures that are committed to the log."""

    def __init__(self, log: FakeLog) -> None:
        self._log = log

    async def get(self, sha256: str) -> bytes | None:
        found = [record.value for record in self._log.topic(topics.PICTURES) if record.key == sha256]
        return found[-1] if found else None


MANIFEST: dict[str, Any] = {
    "id": "fake",
    "name": "Fake",
    "entry_point": "connector:Fake",
    "config": "connector:Fake",
    "base_url": "http://fake.test",
    "mapping_version": 1,
    "docs": "none",
    "capabilities": ["incremental", "write"],
    "auth": {
        "kind": "oauth2",
        "authorize_url": "-",
        "token_url": "-",
        "client_auth": "body",
        "access_token_lifetime_s": 600,
        "refresh_token_rotates": True,
        "refresh_token_lifetime_s": 3600,
    },
    "secrets": [],
    "limits": [],
    "call_timeout_s": 5,
    "streams": [
        {
            "name": "all",
            "entities": ["customer", "product", "sales_order"],
            "kind": "incremental",
            "poll_s": 60,
            "page_size_max": 10,
        }
    ],
    "reads": {},
    "writes": {
        "customer": {
            "actions": ["create", "update", "deactivate"],
            "steps": [],
            "fields": [
                "company_name",
                "display_name",
                "email",
                "phone",
                "vat_number",
                "address",
                "full_name",
                "language",
                "active",
            ],
            "match": ["email"],
        },
        "product": {
            "actions": ["create", "update"],
            "steps": [],
            "fields": ["name", "sku", "description_long"],
            "match": ["sku"],
        },
        "sales_order": {
            "actions": ["create"],
            "steps": [],
            "fields": [],
            "match": ["reference"],
            "product_markers": ["SHIPPING"],
        },
    },
}


class FakeVendor:
    """A vendor's account: objects by entity, calls counted, idempotency keys remembered."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Entity]] = {"customer": {}, "product": {}, "sales_order": {}, "contact": {}}
        self.versions: Counter[tuple[str, str]] = Counter()
        self.keys: dict[str, StepResult] = {}
        self.writes: list[tuple[str, str]] = []
        self.ids = itertools.count(1)
        self.marks: dict[str, str] = {}

    def put(self, entity: str, document: Entity, external_id: str | None = None) -> str:
        external_id = external_id or f"{entity[0].upper()}{next(self.ids)}"
        self.objects[entity][external_id] = document
        self.versions[entity, external_id] += 1
        return external_id

    def record(self, entity: str, external_id: str) -> RawRecord | None:
        document = self.objects[entity].get(external_id)
        if document is None:
            return None
        return RawRecord(
            entity=entity, id=external_id, raw=_JSON.encode(document), version=str(self.versions[entity, external_id])
        )


class FakeConnector:
    """A connector of the fake vendor; one step per write, two for customers (account, contact)."""

    def __init__(
        self, vendor: FakeVendor, *, classes: Mapping[str, IdempotencyClass] | None = None, deaths: Deaths | None = None
    ) -> None:
        self.manifest = Manifest.model_validate(MANIFEST)
        self.vendor = vendor
        self.classes = dict(classes or {})
        self.deaths = deaths or Deaths()
        self.fail_next: list[Exception | str] = []
        self.name_max: int | None = None
        self.hidden: set[str] = set()
        self.total_kept: Decimal | None = None
        """What this vendor makes of every document's total."""

    async def check(self) -> Account:
        return Account(vendor_id="1", name="fake", currency="EUR")

    async def read(self, stream: str, position: Any) -> AsyncIterator[Page]:
        records = [
            self.vendor.record(entity, i) for entity, rows in self.vendor.objects.items() if entity != "contact" for i in rows
        ]
        yield Page(records=[record for record in records if record], position={"at": len(records)}, more=False)

    async def ids(self, stream: str) -> AsyncIterator[Mapping[str, Sequence[str]]]:
        entities = self.manifest.stream(stream).entities
        for entity in entities:
            yield {entity: list(self.vendor.objects[entity])}

    async def complete(self, records: Sequence[RawRecord]) -> Sequence[RawRecord | Exception]:
        return records

    def to_canonical(self, record: RawRecord) -> Entity:
        document = self.vendor.objects[record.entity].get(record.id)
        assert document is not None
        return document

    async def fetch(self, entity: str, external_id: str) -> RawRecord | None:
        return self.vendor.record(entity, external_id)

    async def find(self, entity: str, match: Match) -> Sequence[Found]:
        found = []
        for external_id, document in self.vendor.objects[entity].items():
            if external_id in self.hidden:
                continue
            emails = [point.value for point in document.pii.emails] if getattr(document, "pii", None) else []
            hit = (
                (match.email is not None and match.email in emails)
                or (match.sku is not None and match.sku == getattr(document, "sku", None))
                or (match.number is not None and match.number == getattr(document, "number", None))
                or (match.reference is not None and match.reference == getattr(document, "customer_reference", None))
            )
            if hit:
                record = self.vendor.record(entity, external_id)
                assert record is not None
                found.append(
                    Found(record=record, number=getattr(document, "number", None), active=getattr(document, "active", True))
                )
        return found

    def plan(self, write: Write) -> Sequence[Step]:
        kind = self.classes.get(write.entity, IdempotencyClass.KEY)
        if write.action != "create":
            return [Step(name=write.action, idempotency=IdempotencyClass.REPEATABLE, primary=True)]
        steps = [Step(name=write.entity, idempotency=kind, key=write.key, primary=True, body={"id": write.source.id})]
        if write.entity == "customer":
            steps.append(Step(name="contact", idempotency=IdempotencyClass.SEARCH))
        return steps

    async def perform(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        self.deaths.point(f"before {write.entity} {step.name}")
        lost = False
        if self.fail_next:
            failure = self.fail_next.pop(0)
            if isinstance(failure, Exception):
                raise failure
            lost = failure == "lost"
        result = self._do(write, step, done)
        self.deaths.point(f"after {write.entity} {step.name}")
        if lost:
            raise NetworkFailure("no answer")
        return result

    def _do(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult:
        if step.idempotency is IdempotencyClass.KEY and write.key in self.vendor.keys:
            return msgspec.structs.replace(self.vendor.keys[write.key], replayed=True)
        self.vendor.writes.append((write.action, step.name))
        if step.name == "contact":
            contact = self.vendor.put("contact", write.document)
            self.vendor.marks[f"contact|{done['customer'].external_id}"] = contact
            return StepResult(external_id=contact)
        if write.action == "create":
            external_id = self.vendor.put(write.entity, self._kept(write))
            self.vendor.marks[f"{write.entity}|{write.key}"] = external_id
        else:
            assert write.external_id is not None
            external_id = write.external_id
            self.vendor.put(write.entity, self._updated(write), external_id)
        result = StepResult(external_id=external_id, record=self.vendor.record(write.entity, external_id))
        if step.idempotency is IdempotencyClass.KEY:
            self.vendor.keys[write.key] = result
        return result

    def _kept(self, write: Write) -> Entity:
        document = write.document
        if isinstance(document, canon.SalesOrder | canon.SalesInvoice):
            ref = canon.Ref(id=write.ids.get("customer"))
            if self.total_kept is not None:
                document = msgspec.structs.replace(document, totals=canon.Totals(incl=self.total_kept))
            return msgspec.structs.replace(document, customer_reference=write.reference, customer=canon.Party(customer=ref))
        return self._cut(document)

    def _cut(self, document: Entity) -> Entity:
        if self.name_max and isinstance(document, canon.Customer) and document.company_name:
            return msgspec.structs.replace(document, company_name=document.company_name[: self.name_max])
        return document

    def _updated(self, write: Write) -> Entity:
        before = self.vendor.objects[write.entity][write.external_id or ""]
        if write.action == "deactivate":
            return msgspec.structs.replace(before, active=False)
        pii = before.pii if isinstance(before, canon.Customer) else None
        changes: dict[str, Any] = {}
        new = self._cut(write.document)
        for path in write.fields or ():
            if path in ("email", "phone") and isinstance(new, canon.Customer):
                name = f"{path}s"
                pii = msgspec.structs.replace(pii or canon.PartyPii(), **{name: getattr(new.pii, name) if new.pii else []})
                changes["pii"] = pii
            elif path in new.__struct_fields__:
                changes[path] = getattr(new, path)
        return msgspec.structs.replace(before, **changes)

    async def search(self, write: Write, step: Step, done: Mapping[str, StepResult]) -> StepResult | None:
        mark = f"contact|{done['customer'].external_id}" if step.name == "contact" else f"{write.entity}|{write.key}"
        external_id = self.vendor.marks.get(mark)
        if external_id is None or external_id in self.hidden:
            return None
        record = self.vendor.record(write.entity, external_id) if step.name != "contact" else None
        return StepResult(external_id=external_id, record=record, replayed=True)

    async def aclose(self) -> None:
        return None


def company(name: str = "Van Dijk B.V.", email: str = "inkoop@vandijk.test", **more: Any) -> canon.Customer:
    pii = canon.PartyPii(emails=[canon.ContactPoint(type="WORK", value=email)])
    return canon.Customer(kind=canon.CustomerKind.COMPANY, company_name=name, pii=pii, **more)


def order(customer_id: str = "61", sku: str = "A-1", total: str = "121.00", **more: Any) -> canon.SalesInvoice:
    buyer = company()
    return canon.SalesInvoice(
        type=canon.InvoiceType.INVOICE,
        currency="EUR",
        customer=canon.Party(customer=canon.Ref(id=customer_id), kind=buyer.kind, company_name=buyer.company_name, pii=buyer.pii),
        lines=[canon.Line(line_id="1", line_no=1, line_type=canon.LineType.ITEM, sku=sku, quantity=Decimal(1))],
        totals=canon.Totals(incl=Decimal(total)),
        **more,
    )


async def no_time(_seconds: float) -> None:
    """A sleep that takes none."""

"""QuickBooks' calls, as few shapes as the bus needs. https://developer.intuit.com/app/developer/qbo/docs/learn/rest-api-features"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from bus.core.errors import ApiChanged, Unavailable, WriteRejected
from bus.kit.client import Answer, VendorClient
from connectors.quickbooks.faults import NOT_FOUND
from connectors.quickbooks.mapping.shapes import Instant

MINOR_VERSION = "75"
"""Default and floor since August 2025. https://developer.intuit.com/app/developer/qbo/docs/learn/explore-the-quickbooks-online-api/minor-versions"""
PAGE_SIZE_MAX = 1000
IDS_MAX = 100
"""Ids in one `IN (…)`: keeps a query's URL near 2,500 characters."""
NAME_LISTS = frozenset({"Customer", "Item", "Term", "PaymentMethod", "TaxCode", "TaxRate", "Account"})
"""Lists that hide inactive rows unless asked. https://developer.intuit.com/app/developer/qbo/docs/learn/explore-the-quickbooks-online-api/data-queries"""
BOTH = "Active IN (true, false)"


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one entity, each by its own bytes, and the server's time of the answer."""

    rows: Sequence[msgspec.Raw]
    at: datetime


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Changed objects by entity."""

    rows: Mapping[str, Sequence[msgspec.Raw]]
    at: datetime

    @property
    def count(self) -> int:
        """All of them."""
        return sum(len(rows) for rows in self.rows.values())


class _Response(msgspec.Struct, frozen=True):
    query_response: dict[str, msgspec.Raw] = msgspec.field(name="QueryResponse")
    time: Instant


class _Slices(msgspec.Struct, frozen=True):
    query_response: list[dict[str, msgspec.Raw]] = msgspec.field(name="QueryResponse", default_factory=list)


class _ChangesAnswer(msgspec.Struct, frozen=True):
    responses: list[_Slices] = msgspec.field(name="CDCResponse")
    time: Instant


class _Attached(msgspec.Struct, frozen=True):
    attachable: msgspec.Raw = msgspec.field(name="Attachable")


class _Uploaded(msgspec.Struct, frozen=True):
    responses: list[_Attached] = msgspec.field(name="AttachableResponse")


_QUERY = msgspec.json.Decoder(_Response)
_CDC = msgspec.json.Decoder(_ChangesAnswer)
_UPLOAD = msgspec.json.Decoder(_Uploaded)
_WRAPPED = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_COUNTERS = frozenset({"startPosition", "maxResults", "totalCount"})


class Api:
    """One company's API."""

    def __init__(self, client: VendorClient, realm_id: str) -> None:
        self._client = client
        self._company = f"/v3/company/{realm_id}"
        self._realm_id = realm_id

    async def company_info(self) -> bytes:
        """The company itself."""
        return await self._single("companyinfo", self._realm_id, "CompanyInfo")

    async def preferences(self) -> bytes:
        """The company's settings."""
        return _wrapped(await self._read("preferences"), "Preferences")

    async def get(self, entity: str, object_id: str) -> bytes | None:
        """One object; None when it does not exist (any more)."""
        try:
            return await self._single(entity.lower(), object_id, entity)
        except WriteRejected as error:
            if error.code == NOT_FOUND:
                return None
            raise

    async def query(
        self,
        entity: str,
        conditions: Iterable[str] = (),
        *,
        start: int = 1,
        order: str | None = "Id",
        members: Sequence[str] = ("*",),
    ) -> Rows:
        """One page of a query, inactive rows included."""
        where = " AND ".join([*conditions, *([BOTH] if entity in NAME_LISTS else [])])
        statement = f"SELECT {', '.join(members)} FROM {entity}"  # noqa: S608 - the vendor's query language, and values come through `quoted`
        statement += f" WHERE {where}" if where else ""
        statement += f" ORDERBY {order}" if order else ""
        statement += f" STARTPOSITION {start} MAXRESULTS {PAGE_SIZE_MAX}"
        answer = await self._read("query", {"query": statement})
        found = _decoded(answer, _QUERY)
        return Rows(rows=_rows(answer, found.query_response.get(entity)), at=found.time)

    async def by_ids(self, entity: str, ids: Sequence[str]) -> Sequence[msgspec.Raw]:
        """Objects by id, as many as exist."""
        found: list[msgspec.Raw] = []
        for start in range(0, len(ids), IDS_MAX):
            part = ", ".join(quoted(item) for item in ids[start : start + IDS_MAX])
            found += (await self.query(entity, [f"Id IN ({part})"], order=None)).rows
        return found

    async def server_time(self) -> datetime:
        """The server's clock, by the cheapest query there is."""
        answer = await self._read("query", {"query": "SELECT count(*) FROM Term"})
        found: datetime = _decoded(answer, _QUERY).time
        return found

    async def changes(self, entities: Sequence[str], since: datetime) -> Changes:
        """What changed since an instant, at most 1,000 objects and without pages.
        https://developer.intuit.com/app/developer/qbo/docs/learn/explore-the-quickbooks-online-api/change-data-capture"""
        answer = await self._read("cdc", {"entities": ",".join(entities), "changedSince": instant(since)})
        found = _decoded(answer, _CDC)
        rows: dict[str, list[msgspec.Raw]] = {entity: [] for entity in entities}
        for response in found.responses:
            for part in response.query_response:
                for name, raw in part.items():
                    if name not in _COUNTERS:
                        rows.setdefault(name, []).extend(_rows(answer, raw))
        return Changes(rows=rows, at=found.time)

    async def post(self, entity: str, body: Mapping[str, Any], *, request_id: str | None = None) -> bytes:
        """Creates or updates an object and gives it back whole. An answer nobody can read is an unclear end."""
        params = {"minorversion": MINOR_VERSION} | ({"requestid": request_id} if request_id else {})
        answer = await self._client.call("POST", f"{self._company}/{entity.lower()}", params=params, json=body, purpose="write")
        return _surely(answer, lambda: _wrapped(answer, entity))

    async def upload(self, name: str, content: bytes, media_type: str, item_id: str, request_id: str) -> bytes:
        """Uploads a picture and joins it to an item.
        https://developer.intuit.com/app/developer/qbo/docs/workflows/attach-images-and-notes"""
        about = {
            "AttachableRef": [{"EntityRef": {"type": "Item", "value": item_id}, "IncludeOnSend": False}],
            "FileName": name,
            "ContentType": media_type,
        }
        files = {
            "file_metadata_01": ("metadata.json", json.dumps(about).encode(), "application/json"),
            "file_content_01": (name, content, media_type),
        }
        params = {"minorversion": MINOR_VERSION, "requestid": request_id}
        answer = await self._client.call("POST", f"{self._company}/upload", params=params, files=files, purpose="write")
        return _surely(answer, lambda: bytes(_decoded(answer, _UPLOAD).responses[0].attachable))

    async def _single(self, path: str, object_id: str, entity: str) -> bytes:
        return _wrapped(await self._read(f"{path}/{object_id}"), entity)

    async def _read(self, path: str, params: Mapping[str, str] | None = None) -> Answer:
        return await self._client.call(
            "GET", f"{self._company}/{path}", params={**(params or {}), "minorversion": MINOR_VERSION}, purpose="read"
        )


def quoted(text: str) -> str:
    """A value of a query; a quote inside is escaped by a backslash, never doubled."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def instant(moment: datetime) -> str:
    """An instant with its offset, rounded down to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S-00:00")


def instant_after(moment: datetime) -> str:
    """An instant rounded up to the second, for an inclusive upper bound."""
    return instant(moment + timedelta(seconds=1))


def _decoded(answer: Answer, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        kind = "HTML or XML" if answer.body.lstrip()[:1] == b"<" else str(error)
        raise ApiChanged(f"{answer.path}: answer {answer.status} is not what was promised: {kind}") from None


def _rows(answer: Answer, raw: msgspec.Raw | None) -> Sequence[msgspec.Raw]:
    if raw is None:
        return ()
    try:
        return _ROWS.decode(raw)
    except msgspec.DecodeError as error:
        raise ApiChanged(f"{answer.path}: the rows are no list: {error}") from None


def _wrapped(answer: Answer, entity: str) -> bytes:
    found = _decoded(answer, _WRAPPED).get(entity)
    if found is None:
        raise ApiChanged(f"{answer.path}: answer {answer.status} holds no {entity}")
    return bytes(found)


def _surely(answer: Answer, read: Any) -> bytes:
    try:
        return bytes(read())
    except (ApiChanged, IndexError) as error:
        raise Unavailable(f"{answer.path}: the write was answered by something unreadable: {error}") from None

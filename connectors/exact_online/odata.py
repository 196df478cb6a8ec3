"""Exact's OData dialect: filters, lists with both envelopes, answers of writes. Knows no entity.

https://support.exactonline.com/community/s/knowledge-base#All-All-DNO-Content-restapibusinessexamplehelp
"""

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from bus.core.errors import ApiChanged, BusError, Unavailable, WriteRejected
from bus.kit.client import Answer, VendorClient
from bus.kit.pagination import LinkPages

TERMS_MAX = 40
"""Terms of one or-chain: longer URLs are refused."""
WORDS_MAX = 300
QUOTED_MIN = 4


def guid(value: str) -> str:
    """A guid literal."""
    return f"guid'{value}'"


def text(value: str) -> str:
    """A text literal."""
    return "'" + value.replace("'", "''") + "'"


def key_of(row: Mapping[str, Any], name: str) -> str:
    """A member without which a row is nobody's. Raises ApiChanged when it is missing or null."""
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise ApiChanged(f"a row without {name}: its key is missing or null")
    return value


def stamp_of(row: Mapping[str, Any]) -> int:
    """A row version: an Int64, served as text. Raises ApiChanged."""
    text = str(row.get("Timestamp"))
    if not re.fullmatch(r"\d{1,19}", text):
        raise ApiChanged("a row of a feed without a Timestamp")
    return int(text)


def any_of(field: str, literals: Iterable[str]) -> str:
    """`field eq a or field eq b`: there is no `in`."""
    return " or ".join(f"{field} eq {literal}" for literal in literals)


def chunks(values: Sequence[str], size: int = TERMS_MAX) -> Iterable[Sequence[str]]:
    """Parts of at most `size`."""
    return (values[start : start + size] for start in range(0, len(values), size))


class OData:
    """Calls of one division."""

    def __init__(self, client: VendorClient, division: int) -> None:
        self._client = client
        self.division = division
        self._root = f"api/v1/{division}"
        client.classifier = self.classify

    async def pages(
        self, path: str, select: Sequence[str], condition: str | None = None, order: str | None = None
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Pages of rows; `__next` is followed exactly as given."""
        params = {"$select": ",".join(select)}
        if condition:
            params["$filter"] = condition
        if order:
            params["$orderby"] = order
        pages = LinkPages(path)
        url: str | None = f"{self._root}/{path}"
        while url is not None:
            answer = await self._client.call("GET", url, params=params or None)
            rows, link = _envelope(answer)
            yield rows
            url, params = pages.next(link), {}

    async def rows(self, path: str, select: Sequence[str], condition: str | None = None) -> list[dict[str, Any]]:
        """All rows of a short list."""
        return [row async for page in self.pages(path, select, condition) for row in page]

    async def by(self, path: str, select: Sequence[str], field: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Rows whose guid field is one of many, in few calls."""
        found: list[dict[str, Any]] = []
        for part in chunks(sorted(set(ids))):
            found += await self.rows(path, select, any_of(field, map(guid, part)))
        return found

    async def function(self, path: str, select: Sequence[str], parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        """Rows of a `read/` function, which takes named parameters in place of a filter."""
        answer = await self._client.call("GET", f"{self._root}/{path}", params={**parameters, "$select": ",".join(select)})
        return _envelope(answer)[0]

    async def post(self, path: str, body: Mapping[str, Any], key: str = "ID") -> dict[str, Any]:
        """Creates; the created row, however thin, but with its key. Raises Unavailable when the answer has none: a write that
        may have happened is never called refused."""
        answer = await self._write("POST", f"{self._root}/{path}", body)
        row = answer.json()
        created = row.get("d") if isinstance(row, dict) else None
        if not isinstance(created, dict) or not isinstance(created.get(key), str) or not created[key]:
            raise Unavailable(f"{path}: a create was answered without a row, and may have happened")
        return created

    async def put(self, path: str, key: str, body: Mapping[str, Any]) -> None:
        """Changes only the given properties, in spite of its name."""
        await self._write("PUT", f"{self._root}/{path}({guid(key)})", body)

    async def _write(self, method: str, url: str, body: Mapping[str, Any]) -> Answer:
        """A write. The vendor's words may quote what was sent, which may be personal: that is left out of them."""
        try:
            return await self._client.call(method, url, json=body, purpose="write")
        except WriteRejected as refusal:
            raise WriteRejected(_without(str(refusal), body), code=refusal.code, hint=refusal.hint) from None

    async def me(self) -> dict[str, Any]:
        """Who consented."""
        answer = await self._client.call("GET", "api/v1/current/Me", params={"$select": "CurrentDivision,UserName,FullName"})
        rows, _ = _envelope(answer)
        if not rows:
            raise ApiChanged("current/Me answered no row")
        return rows[0]

    async def picture(self, url: str) -> tuple[str, bytes]:
        """Media type and bytes of a picture; needs the token like every call."""
        answer = await self._client.call("GET", url)
        return answer.headers.get("content-type", "application/octet-stream").split(";")[0], answer.body

    def classify(self, answer: Answer) -> BusError | None:
        """500 with an envelope is a refusal for good, without one an outage. Texts are localised: never branched on."""
        if 200 <= answer.status < 300:
            return None
        words = _words(answer)
        if words is not None and answer.write and answer.status in (400, 500):
            return WriteRejected(f"Exact Online refused {answer.path.rsplit('/', 1)[-1]}: {words}", code=str(answer.status))
        if words is not None and answer.status == 500:
            return ApiChanged(f"Exact Online refused {answer.path}: {words}")
        return self._client.by_status(answer, words or answer.headers.get("reason", ""))


def _envelope(answer: Answer) -> tuple[list[dict[str, Any]], str | None]:
    """Rows of `d` or `d.results`, and the next page's URL."""
    body = answer.json()
    inner = body.get("d") if isinstance(body, dict) else None
    rows, link = (inner.get("results"), inner.get("__next")) if isinstance(inner, dict) else (inner, None)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ApiChanged(f"{answer.path}: a list without `d`")
    return rows, link


def _without(words: str, body: Any) -> str:
    """Words without the texts of a body."""
    if isinstance(body, str):
        return words.replace(body, "…") if len(body) >= QUOTED_MIN else words
    parts = body.values() if isinstance(body, Mapping) else body if isinstance(body, list) else ()
    for part in parts:
        words = _without(words, part)
    return words


def _words(answer: Answer) -> str | None:
    """The vendor's own words, None where there is no envelope. A refusal that cannot be read is one all the same."""
    try:
        value = answer.json()["error"]["message"]["value"]
    except (ApiChanged, Unavailable, KeyError, TypeError):
        return None
    return str(value)[:WORDS_MAX]

"""Query options of a read, checked before any row is looked at."""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from connectors.exact_online.simulation import odata
from connectors.exact_online.simulation.refusals import bad_request
from connectors.exact_online.simulation.sets import DELETED_SET, View

OPTIONS = {"$select", "$filter", "$orderby", "$top", "$skip", "$skiptoken", "$expand", "$inlinecount", "$format"}
SELECT_MISSING = "Please add a $select or a $top=1 statement to the query string."
FILTER_MISSING = (
    "This endpoint has mandatory filtering applied. A GET request for this endpoint must have a $filter parameter "
    "with one of the following fields in the url:"
)
FILTER_UNSUPPORTED = "This $filter parameter is not supported for this resource"
SYNTAX = "Bad Request - Error in query syntax."


@dataclass
class Query:
    """What a read asks for. `select` None: every property."""

    select: list[str] | None = None
    child_select: dict[str, list[str]] = field(default_factory=dict)
    filter: odata.Node | None = None
    order: list[tuple[str, bool]] = field(default_factory=list)
    top: int | None = None
    skip: int = 0
    token: list[odata.Literal] | None = None
    expand: list[str] = field(default_factory=list)
    count: bool = False


def parse_options(text: str) -> dict[str, str]:
    """The raw query string by name. Raises Refused (400) on what OData does not know."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in OPTIONS or name in found:
            raise bad_request(f"The query parameter '{name}' is not supported.")
        found[name] = value
    if found.pop("$format", "json") != "json":
        raise bad_request(SYNTAX)
    return found


def read_query(view: View, options: dict[str, str], *, by_key: bool = False, mandatory_filter: bool = False) -> Query:
    """Checks options against a view. Raises Refused (400)."""
    if by_key and options.keys() - {"$select", "$expand"}:
        raise bad_request(SYNTAX)
    query = Query(top=_count(options.get("$top")), skip=_count(options.get("$skip")) or 0)
    _select(view, query, options.get("$select"))
    needed = view.family != "plain" or view.base.select_needed
    if needed and not by_key and query.select is None and query.top != 1:
        raise bad_request(SELECT_MISSING)
    _expand(view, query, options.get("$expand"))
    if "$filter" in options:
        query.filter = odata.parse_filter(options["$filter"], view.fields, view.base.model)
    if not by_key:
        _check_filter(view, query, mandatory_filter)
    if "$orderby" in options:
        query.order = _order(view, options["$orderby"])
    if "$skiptoken" in options:
        query.token = _token(options["$skiptoken"], len(query.order) + 1)
    if "$inlinecount" in options:
        if options["$inlinecount"] not in ("allpages", "none"):
            raise bad_request(SYNTAX)
        query.count = options["$inlinecount"] == "allpages"
    if view.family == "sync" and (query.skip or query.order not in ([], [("Timestamp", False)])):
        raise bad_request(SYNTAX)
    return query


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit():
        raise bad_request(f"Incorrect format for a count: '{text}'.")
    return int(text)


def _select(view: View, query: Query, text: str | None) -> None:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if not names:
        return
    if names == ["*"]:
        query.select = [name for name, known in view.fields.items() if known.kind != "children"]
        return
    query.select = []
    for name in names:
        own, _, nested = name.partition("/")
        known = view.fields.get(own)
        if known is None or known.write_only or (nested and own not in view.base.children):
            raise bad_request(f"Type 'Exact.Web.Api.Models.{view.base.model}' does not have a property named '{own}'.")
        if nested:
            query.child_select.setdefault(own, []).append(nested)
        if own not in query.select:
            query.select.append(own)


def _expand(view: View, query: Query, text: str | None) -> None:
    for name in (name.strip() for name in (text or "").split(",") if name.strip()):
        if name not in view.base.children or name not in view.fields:
            raise bad_request(f"Type 'Exact.Web.Api.Models.{view.base.model}' cannot expand a property named '{name}'.")
        query.expand.append(name)


def _check_filter(view: View, query: Query, mandatory: bool) -> None:
    named = set(odata.properties(query.filter)) if query.filter else set()
    if view.family == "sync":
        allowed = {"Timestamp", "EntityType"} if view.path == DELETED_SET else {"Timestamp"}
        if named - allowed:
            raise bad_request(FILTER_UNSUPPORTED)
        return
    accepted = view.base.filter_fields or frozenset(view.fields)
    if mandatory and view.family == "plain" and view.base.filter_needed and not named & accepted:
        raise bad_request(FILTER_MISSING + ",".join(sorted(accepted)))


def _order(view: View, text: str) -> list[tuple[str, bool]]:
    order = []
    for part in text.split(","):
        name, _, direction = part.strip().partition(" ")
        if name not in view.fields or view.fields[name].kind in ("children", "binary") or direction not in ("", "asc", "desc"):
            raise bad_request(SYNTAX)
        order.append((name, direction == "desc"))
    return order


def _token(text: str, parts: int) -> list[odata.Literal]:
    pieces, quoted, start = [], False, 0
    for at, character in enumerate(text):
        if character == "'":
            quoted = not quoted
        elif character == "," and not quoted:
            pieces.append(text[start:at])
            start = at + 1
    pieces.append(text[start:])
    if len(pieces) != parts:
        raise bad_request(f"The skip token value '{text}' does not fit the query.")
    return [odata.literal(piece) for piece in pieces]

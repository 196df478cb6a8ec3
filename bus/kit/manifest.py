"""The manifest: what is true of a vendor, as data. It states facts and never computes."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from bus.core import errors
from bus.core.errors import BusError, ManifestError

Idempotency: TypeAlias = Literal["KEY", "CLIENT_ID", "SEARCH", "NONE", "REPEATABLE"]
Capability: TypeAlias = Literal[
    "incremental", "full", "deletes", "write", "idempotency_key", "batch_write", "attachments", "webhooks", "variants"
]


def _error_rows(rows: dict[str, str]) -> dict[str, str]:
    """Rows of an error table: status or status/code → name of a class of `bus.core.errors`."""
    for key, name in rows.items():
        if not re.fullmatch(r"[1-5]\d\d(/.+)?", key):
            raise ValueError(f"{key!r} is no row: write a status or status/code, such as 400 or 400/5010")
        kind = getattr(errors, name, None)
        if not (isinstance(kind, type) and issubclass(kind, BusError)):
            raise ValueError(f"{key} = {name!r}: no error class of bus.core.errors")  # noqa: TRY004 - pydantic reports ValueError
    return rows


ErrorRows: TypeAlias = Annotated[dict[str, str], AfterValidator(_error_rows)]


class Facts(BaseModel):
    """Base: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Auth(Facts):
    """OAuth 2.0 authorisation code of a confidential client."""

    kind: Literal["oauth2"]
    authorize_url: str
    token_url: str
    scopes: tuple[str, ...] = ()
    client_auth: Literal["basic", "body"]
    access_token_lifetime_s: int
    refresh_not_before_s: int = 0
    """Seconds after issue before which the vendor refuses a refresh."""
    refresh_before_expiry_s: int = 60
    refresh_token_rotates: bool
    refresh_token_lifetime_s: int
    retry_after_empty_answer: bool = False
    redirect: Literal["loopback", "localhost", "https"] = "loopback"
    """What a login may lead back to: http on this machine by its address (RFC 8252 7.3), by the name localhost only, or https
    only."""
    redirect_config: dict[str, str] = {}
    """Parameters that come back beside the code and the key of a connection's `config` each must be equal to."""


class Limit(Facts):
    """One vendor limit. `scope` says what shares it."""

    name: str
    calls: int
    per_s: int
    window: Literal["sliding", "clock_minute", "utc_day"] = "sliding"
    scope: Literal["connection"] = "connection"
    limit_header: str | None = None
    remaining_header: str | None = None
    reset_header: str | None = None
    reset_unit: Literal["epoch_ms", "epoch_s", "delta_s"] | None = None
    """Unit of the reset header."""
    paths: tuple[str, ...] = ()
    """Only calls whose path starts so; empty: all."""


class ErrorLimit(Facts):
    """More errors than this on one endpoint block it."""

    errors: int
    per_s: int
    statuses: tuple[int, ...]


class Stream(Facts):
    """A readable collection."""

    name: str
    entities: tuple[str, ...]
    kind: Literal["incremental", "full"]
    poll_s: int
    """Default seconds between polls."""
    calls_per_poll: int = 1
    """Calls of a poll that finds nothing: for the forecast."""
    full_read_calls: int = 1
    """Calls of a full read of few objects, everything joined to them included: for the cost of a comparison."""
    objects_per_call: int | None = None
    """Further objects that each further call of it brings; none: a page of them."""
    calls_per_object: int = 1
    """Calls of reading one object by itself, at most."""
    deletes: Literal["feed", "none", "scan"] = "none"
    window_days: int | None = None
    """How far back the vendor remembers changes."""
    scan_s: int = 86_400
    """Seconds between two comparisons of all ids, where deletes are found by them."""
    page_size_max: int
    overlap: str = ""
    """For people: what is read twice, and why that is enough."""


class Reads(Facts):
    """Which canonical fields an entity of this system ever fills: others are refused in `when` and `set`."""

    fields: tuple[str, ...]
    line_fields: tuple[str, ...] = ()
    enums: dict[str, tuple[str, ...]] = {}
    """Enum fields with the members this system ever gives."""


class StepFacts(Facts):
    """Idempotency class of one call of a write."""

    name: str
    idempotency: Idempotency
    natural_key: str | None = None
    settle_s: int = 0
    """Seconds after which a search that finds nothing proves absence."""
    remembers_s: int | None = None
    """KEY: how long the vendor remembers a key, where known."""


class Writes(Facts):
    """What can be written of an entity."""

    actions: tuple[Literal["create", "update", "deactivate", "delete"], ...]
    steps: tuple[StepFacts, ...]
    fields: tuple[str, ...]
    """Canonical field paths that have a place at this system."""
    header_values: tuple[str, ...] = ()
    """Names a flow may `set` on the header besides canonical fields."""
    line_values: tuple[str, ...] = ()
    """Names a flow may `set` per line, charge and allowance."""
    required_values: tuple[str, ...] = ()
    """Of those, what a flow must `set`."""
    document_types: tuple[str, ...] = ()
    reference_fields: dict[str, int] = {}
    """Fields that can hold a flow's reference, with their length."""
    facet: Literal["currency"] | None = None
    text_max: dict[str, int] = {}
    """Longest text per canonical field."""
    overlong: Literal["cut", "refuse"] = "cut"
    match: tuple[str, ...] = ()
    """Match keys `find` understands."""
    product_markers: tuple[str, ...] = ()
    """Values that stand on a line in place of a product's id, such as a vendor's own shipping marker."""
    pictures_max: int = 1
    """Pictures one object of this entity is given; `fields` says whether it has a place for any (`images`)."""
    calls_per_create: int = 1


class Manifest(Facts):
    """All facts of one system."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    name: str
    entry_point: Annotated[str, Field(pattern=r"^connector:[A-Z]\w+$")]
    config: Annotated[str, Field(pattern=r"^connector:[A-Z]\w+$")]
    base_url: str
    mapping_version: int
    docs: str
    capabilities: tuple[Capability, ...]
    auth: Auth
    secrets: tuple[str, ...]
    """Files of a connection's secret folder."""
    limits: tuple[Limit, ...]
    error_limit: ErrorLimit | None = None
    call_timeout_s: float
    concurrent_calls_max: int = 8
    """Calls in flight of one process, one for a command of people. Where a vendor limits the number for polling, writing and
    people together, state half of what is left after that one."""
    body_bytes_max: int = 32 * 1024 * 1024
    polling_share_pct: Annotated[int, Field(ge=1, le=98)] = 60
    """Part of each budget for polling; the rest, less the reserve, is for writing."""
    reserve_pct: Annotated[int, Field(ge=1, le=50)] = 5
    """Part of each budget that is kept for people: calls of the command line."""
    streams: tuple[Stream, ...]
    reads: dict[str, Reads]
    writes: dict[str, Writes] = {}
    errors: ErrorRows = {}
    """Rows that differ from the default table of `bus.kit.classify`: status or status/code → error class."""
    cannot: dict[str, str] = {}
    """What the system cannot do, for people: shown by `bus connectors show`, refused by `bus validate`."""

    @model_validator(mode="after")
    def _leaves_room_for_writing(self) -> Self:
        if self.polling_share_pct + self.reserve_pct > 99:
            raise ValueError("polling_share_pct and reserve_pct leave nothing for writing: lower one of them")
        return self

    def stream(self, name: str) -> Stream:
        """A stream by name."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise ManifestError(f"{self.id} has no stream {name!r}: it has {', '.join(s.name for s in self.streams)}")


def load_manifest(path: Path) -> Manifest:
    """Reads and checks a `manifest.toml`."""
    try:
        manifest = Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"{path}: {where}: {first['msg']} ({error.error_count()} in all)") from error
    if manifest.id != path.parent.name:
        raise ManifestError(f"{path}: id {manifest.id!r} differs from its folder {path.parent.name!r}: make them equal")
    return manifest

"""How grants and logins stand on topics: token sets and authorisation codes are sealed, everything around them is readable."""

from datetime import datetime
from enum import StrEnum

import msgspec
from pydantic import SecretStr

from bus.kit.auth import TokenSet
from bus.runtime import logs
from bus.runtime.privacy import Box, MasterKey
from schemas.system import GrantRecord, RequestKind, RequestRecord


class GrantState(StrEnum):
    """State of a grant."""

    ACTIVE = "ACTIVE"
    REFRESHING = "REFRESHING"
    """A refresh has begun and is not known to have ended; the sealed tokens are those from before it."""
    LOGIN_NEEDED = "LOGIN_NEEDED"


class _Tokens(msgspec.Struct, kw_only=True, omit_defaults=True):
    access_token: str
    refresh_token: str
    expires_at: datetime
    issued_at: datetime
    refresh_expires_at: datetime | None = None


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """What a person's login brought."""

    code: str
    redirect_uri: str

    def __repr__(self) -> str:
        return "Login(***)"


def grants_box(master: MasterKey) -> Box:
    """Seals token sets."""
    return master.box("grants")


def seal_tokens(box: Box, connection: str, tokens: TokenSet) -> bytes:
    """The sealed member of a GrantRecord."""
    plain = _Tokens(
        access_token=tokens.access_token.get_secret_value(),
        refresh_token=tokens.refresh_token.get_secret_value(),
        expires_at=tokens.expires_at,
        issued_at=tokens.issued_at,
        refresh_expires_at=tokens.refresh_expires_at,
    )
    return box.seal(msgspec.json.encode(plain), f"grant|{connection}")


def open_grant(box: Box, record: GrantRecord) -> TokenSet:
    """The token set of a record. Both tokens are from now on taken out of every log line. Raises SettingsError (other key)."""
    plain = msgspec.json.decode(box.open(record.sealed, f"grant|{record.connection}"), type=_Tokens)
    for value in (plain.access_token, plain.refresh_token):
        logs.redact_value(value)
    return TokenSet(
        access_token=SecretStr(plain.access_token),
        refresh_token=SecretStr(plain.refresh_token),
        expires_at=plain.expires_at,
        issued_at=plain.issued_at,
        refresh_expires_at=plain.refresh_expires_at,
    )


def login_request(master: MasterKey, *, request_id: str, connection: str, login: Login, made_at: datetime) -> RequestRecord:
    """The request that brings an authorisation code to the grants service (key: connection, partition: its slot)."""
    sealed = master.box("requests").seal(msgspec.json.encode(login), f"login|{connection}|{request_id}")
    return RequestRecord(kind=RequestKind.LOGIN, id=request_id, connection=connection, sealed=sealed, made_at=made_at)


def open_login(master: MasterKey, request: RequestRecord) -> Login:
    """The code of a LOGIN request. Raises SettingsError (another master key)."""
    data = master.box("requests").open(request.sealed or b"", f"login|{request.connection}|{request.id}")
    login = msgspec.json.decode(data, type=Login)
    logs.redact_value(login.code)
    return login

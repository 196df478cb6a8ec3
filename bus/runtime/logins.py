"""The step of OAuth that needs a person: consent at the vendor, the way back, and the code on its way to the grants service.

The way back is http to this machine (RFC 8252 section 7.3, https://www.rfc-editor.org/rfc/rfc8252#section-7.3) where the vendor
takes that; else the person copies the address they were led to. `state` ties the answer to the question.

PKCE is left out: the apps are confidential clients, whose codes are worth nothing without the client secret, and neither vendor's
pages know it.
"""

import hmac
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import msgspec
from pydantic import SecretStr

from bus.core import topics
from bus.core.clock import SystemClock
from bus.core.configuration import Connection
from bus.core.errors import AccessRevoked, SettingsError
from bus.kit.auth import OAuth2
from bus.kit.registry import LoadedConnector, load
from bus.runtime import requests
from bus.runtime.codec import Codec
from bus.runtime.grants import Login, login_request
from bus.runtime.newest import NewestValues, newest_values
from bus.runtime.privacy import MasterKey
from bus.runtime.published import read_published
from bus.runtime.secrets import load_secret, require
from bus.runtime.settings import BusSettings
from schemas.system import GrantRecord, RequestKind

PATH = "/callback"
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
STATE_BYTES = 24


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """What a person is asked for."""

    connection: str
    url: str
    """The vendor's page."""
    redirect_uri: str
    state: str
    listens: bool
    """Whether the way back ends at this machine; else the person brings the address."""
    expected: Mapping[str, str] = {}
    """Parameters beside the code, and what they must be: the account the connection is for."""


async def consent_of(
    settings: BusSettings, codec: Codec, connection: str, *, port: int, redirect_uri: str | None, paste: bool
) -> Consent:
    """The consent to ask for.

    Raises SettingsError for an unknown connection, a secret without client id, no master key, or a way back that the vendor
    does not take.
    """
    MasterKey.load(settings)  # the code is sealed with it: say so before anybody logs in
    document = requests.require_connection((await read_published(settings, codec)).configuration, connection)
    loaded = load(document.system)
    secret = load_secret(settings, document.secret)
    auth = loaded.manifest.auth.model_copy(update={"authorize_url": authorize_url_of(document, loaded)})
    # Only the address is made here: the client secret and the token endpoint are the grants service's business.
    client_id = require(secret, document.secret, "client_id")
    desk = OAuth2(auth, token_url="", client_id=client_id, client_secret=SecretStr(""), clock=SystemClock())
    back = redirect_uri or way_back(document, loaded, port)
    state = secrets.token_urlsafe(STATE_BYTES)
    return Consent(
        connection=connection,
        url=desk.authorize_url(back, state),
        redirect_uri=back,
        state=state,
        listens=not paste and is_loopback(back),
        expected={
            name: str(document.config[key]) for name, key in auth.redirect_config.items() if document.config.get(key) is not None
        },
    )


def authorize_url_of(connection: Connection, loaded: LoadedConnector) -> str:
    """The vendor's page. A connection with a token URL of its own (a simulator, a proxy) has its page at the same host."""
    config = loaded.config_class.model_validate(connection.config)
    url = loaded.manifest.auth.authorize_url.format(**config.model_dump())
    if not connection.token_url:
        return url
    host = urlsplit(connection.token_url)
    return urlunsplit((host.scheme, host.netloc, urlsplit(url).path, "", ""))


def way_back(connection: Connection, loaded: LoadedConnector, port: int) -> str:
    """The redirect URI on this machine. Raises SettingsError where the vendor takes none."""
    rule = "loopback" if connection.token_url else loaded.manifest.auth.redirect
    if rule == "https":
        raise SettingsError(
            f"{connection.name}: {loaded.manifest.name} leads back to https addresses only: give the one its app is registered "
            "with as --redirect-uri, and paste the address you are led to"
        )
    return f"http://{'localhost' if rule == 'localhost' else '127.0.0.1'}:{port}{PATH}"


def is_loopback(redirect_uri: str) -> bool:
    """Whether a redirect URI leads to a port of this machine, without TLS."""
    parts = urlsplit(redirect_uri)
    return parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS


class NotOurs(SettingsError):
    """An answer to another question than the one that was asked."""


def code_of(consent: Consent, address: str) -> str:
    """The authorisation code of the address a person was led to.

    Raises NotOurs for another login's answer, AccessRevoked when the vendor or the person refused, SettingsError for anything
    that is no answer, and for the consent of another account than the connection's.
    """
    query = dict(parse_qsl(urlsplit(address.strip()).query))
    if not hmac.compare_digest(query.get("state", "").encode(), consent.state.encode()):
        raise NotOurs("the address is not the answer to this login (its `state` differs): copy the whole address, or begin again")
    if "error" in query:
        told = query.get("error_description") or query["error"]
        raise AccessRevoked(f"{consent.connection}: the vendor gave no consent: {told}")
    for name, wanted in consent.expected.items():
        if query.get(name, wanted) != wanted:
            raise SettingsError(
                f"{consent.connection} is for {name} {wanted}, and consent was given for {query[name]}: log in again and choose "
                "the other company there, or correct the connection's config and `bus apply` it"
            )
    if not query.get("code"):
        raise SettingsError("the address has no `code`: copy the whole address you were led to after consenting")
    return query["code"]


class LoggedIn(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a login."""

    record: GrantRecord | None
    """The grant as the owner left it; None: it has not answered in time."""
    accepted: bool = False


async def log_in(settings: BusSettings, codec: Codec, consent: Consent, code: str, *, wait_s: float) -> LoggedIn:
    """Brings the code to the grants service, sealed, and waits until it has been exchanged or refused."""
    made = requests.request(RequestKind.LOGIN, consent.connection)
    request = login_request(
        MasterKey.load(settings),
        request_id=made.id,
        connection=consent.connection,
        login=Login(code=code, redirect_uri=consent.redirect_uri),
        made_at=made.made_at,
    )
    slot = topics.slot_of(consent.connection, settings.slots)
    async with NewestValues(settings, codec, topics.GRANTS, consent.connection.__eq__, partitions=[slot]) as newest:
        before: GrantRecord | None = newest.values.get(consent.connection)
        offset, version = (before.requests_offset, before.version) if before is not None else (0, 0)
        await requests.ask(settings, codec, [request])

        def answered(values: Mapping[str, Any]) -> GrantRecord | None:
            found: GrantRecord | None = values.get(consent.connection)
            return found if found is not None and found.requests_offset > offset else None

        record = await newest.until(answered, wait_s)
    return LoggedIn(record=record, accepted=record is not None and record.version > version)


async def all_grants(settings: BusSettings, codec: Codec) -> dict[str, GrantRecord | None]:
    """The grant of every published connection, by name; None where the owner has not seen it yet."""
    configuration = (await read_published(settings, codec)).configuration
    found = await newest_values(settings, codec, topics.GRANTS)
    return {name: found.get(name) for name in sorted(configuration.connections)}

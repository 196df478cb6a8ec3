"""`bus grants`: what the vendors let us do, and the logins that only a person can make."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from bus.cli.session import as_json_option, connected, emit, moment, table, unanswered

if TYPE_CHECKING:
    from bus.runtime.codec import Codec
    from bus.runtime.logins import Consent, LoggedIn
    from bus.runtime.settings import BusSettings
    from schemas.system import GrantRecord

PORT = 8765
PERSON_WAIT_S = 600.0
"""How long a person may take at the vendor's page."""
EXCHANGE_WAIT_S = 45.0
"""How long the grants service may take: the vendor's own time-out is 30 s."""


@click.group()
def grants() -> None:
    """The consents by which vendors let the bus in. The grants service keeps them alive."""


@grants.command("list")
@as_json_option
def list_grants(as_json: bool) -> None:
    """List them: until when the access token is good, when it was last refreshed, and what is needed."""

    async def look(settings: "BusSettings", codec: "Codec") -> "dict[str, GrantRecord | None]":
        from bus.runtime.logins import all_grants

        return await all_grants(settings, codec)

    found = connected(look)
    if as_json:
        emit({"grants": [_plain(name, record) for name, record in found.items()]})
        return
    if not found:
        click.echo("no connections are published: `bus apply -f FOLDER` publishes a configuration")
        return
    rows = [
        [name, record.state if record else "", _until(record), _refreshed(record), need(name, record)]
        for name, record in found.items()
    ]
    table("Grants (UTC)", ["connection", "state", "access until", "last refresh", "what is needed"], rows)


def _plain(name: str, record: "GrantRecord | None") -> dict[str, Any]:
    return {
        "connection": name,
        "state": record.state if record else None,
        "version": record.version if record else 0,
        "expires_at": record.expires_at.isoformat() if record and record.expires_at else None,
        "refreshed_at": record.issued_at.isoformat() if record and record.version else None,
        "detail": record.detail if record else None,
        "needs": need(name, record) or None,
    }


def _until(record: "GrantRecord | None") -> str:
    return moment(record.expires_at.isoformat()) if record and record.expires_at else ""


def _refreshed(record: "GrantRecord | None") -> str:
    return moment(record.issued_at.isoformat()) if record and record.version else "never"


def need(name: str, record: "GrantRecord | None") -> str:
    """What somebody has to do, if anything."""
    from bus.runtime.grants import GrantState

    if record is None:
        return "the grants service has not seen it yet: does it run?"
    if record.state == GrantState.LOGIN_NEEDED:
        return f"a person: `bus grants login {name}`\n({record.detail or 'no reason given'})"
    if record.expires_at is not None and record.expires_at < datetime.now(UTC):
        return "a refresh: it is overdue, the grants service's log says why"
    return f"nothing ({record.detail})" if record.detail else ""


@grants.command()
@click.argument("connection")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=PORT, show_default=True, help="Port of this machine to be led back to."
)
@click.option("--redirect-uri", metavar="URI", help="The redirect URI the app is registered with, where it is another.")
@click.option("--paste", is_flag=True, help="Paste the address you are led to; nothing listens on this machine.")
@click.option("--no-browser", is_flag=True, help="Print the vendor's page, and open no browser.")
def login(connection: str, port: int, redirect_uri: str | None, paste: bool, no_browser: bool) -> None:
    """Have a person log in at the vendor of CONNECTION, and hand the consent to the grants service.

    The vendor leads back to http://127.0.0.1:PORT/callback (or localhost, as it takes it), which must be among the redirect URIs
    of its app; with --redirect-uri to that one. Where nothing of this machine can be led to, the address is pasted instead.
    """

    async def prepare(settings: "BusSettings", codec: "Codec") -> "Consent":
        from bus.runtime.logins import consent_of

        return await consent_of(settings, codec, connection, port=port, redirect_uri=redirect_uri, paste=paste)

    async def hand_over(settings: "BusSettings", codec: "Codec") -> "LoggedIn":
        from bus.runtime.logins import log_in

        return await log_in(settings, codec, consent, code, wait_s=EXCHANGE_WAIT_S)

    consent = connected(prepare)
    click.echo(f"log in, and consent, here:\n\n  {consent.url}\n")
    click.echo(f"the vendor's app must know this redirect URI: {consent.redirect_uri}", err=True)
    code = asyncio.run(_landed(consent, browser=not no_browser)) if consent.listens else _pasted(consent, browser=not no_browser)
    click.echo("consent given; the grants service exchanges it …", err=True)
    found = connected(hand_over)
    if found.accepted and found.record is not None:
        click.echo(f"{connection}: logged in; grant version {found.record.version}, access until {_until(found.record)} UTC")
        return
    if found.record is None:
        click.echo(unanswered(f"the login of {connection}", "grants", EXCHANGE_WAIT_S), err=True)
    else:
        click.echo(f"{connection}: refused: {found.record.detail}; begin again: a code is good once", err=True)
    sys.exit(1)


async def _landed(consent: "Consent", *, browser: bool) -> str:
    from bus.runtime.landing import Landing
    from bus.runtime.logins import code_of

    async with Landing(consent.redirect_uri, lambda address: code_of(consent, address)) as landing:
        click.echo(f"waiting for the answer at {consent.redirect_uri} …", err=True)
        if browser:
            click.launch(consent.url)
        return await landing.code(PERSON_WAIT_S)


def _pasted(consent: "Consent", *, browser: bool) -> str:
    from bus.runtime.logins import code_of

    if browser:
        click.launch(consent.url)
    return code_of(consent, click.prompt("the address you were led to", err=True))


commands = [grants]

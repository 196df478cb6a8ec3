"""`bus grants`: what is needed, and a person's login at both vendors' simulated pages, to the token that it ends in."""

import asyncio
import importlib
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from pydantic import SecretStr

from bus.core.clock import SystemClock
from bus.core.errors import AccessRevoked, SettingsError
from bus.kit.auth import OAuth2
from bus.kit.registry import load
from bus.runtime import logins
from bus.runtime.grants import GrantState, open_login
from bus.runtime.landing import Landing
from bus.runtime.logins import Consent, NotOurs, code_of
from bus.runtime.privacy import MasterKey
from bus.simulation.simulator import InProcess
from schemas.system import GrantRecord, RequestKind, RequestRecord
from tests.unit.cli.board import BOOKS, NOW, SHOP, STRANGER, connection
from tests.unit.cli.conftest import Terminal

STATE = "state-1"
SOON = datetime.now(UTC) + timedelta(minutes=5)


def grant(name: str, state: str = GrantState.ACTIVE, version: int = 4, **more: Any) -> GrantRecord:
    return GrantRecord(connection=name, state=state, sealed=b"x", issued_at=NOW, version=version, **more)


# --- list ---------------------------------------------------------------------------------------------------------------------


def test_the_list_says_what_is_needed(terminal: Terminal) -> None:
    board = terminal.board
    board.grant(grant(SHOP, expires_at=SOON))
    board.grant(grant(BOOKS, GrantState.LOGIN_NEEDED, detail="token endpoint refuses the grant: 400 invalid_grant"))
    found = {item["connection"]: item for item in terminal.plain("grants", "list")["grants"]}
    assert found[SHOP]["needs"] is None
    assert (found[SHOP]["version"], found[SHOP]["expires_at"]) == (4, SOON.isoformat())
    assert "`bus grants login exact-nl`" in found[BOOKS]["needs"]
    assert "does it run?" in found[STRANGER]["needs"]
    shown = terminal.said("grants", "list")
    assert "invalid_grant" in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 100


def test_an_expired_grant_is_told_of(terminal: Terminal) -> None:
    terminal.board.grant(grant(SHOP, expires_at=NOW.replace(year=2020)))
    assert "overdue" in terminal.said("grants", "list")


# --- what a person brings back --------------------------------------------------------------------------------------------------


def consent(**more: Any) -> Consent:
    facts = {"connection": SHOP, "url": "u", "redirect_uri": "http://127.0.0.1:1/callback", "state": STATE, "listens": True}
    return Consent(**(facts | more))


def test_the_code_of_an_address() -> None:
    address = f"  https://bus.example/cb?code=a%2Bb%21c&state={STATE}&more=1\n"
    assert code_of(consent(), address) == "a+b!c"


@pytest.mark.parametrize(
    ("query", "error", "part"),
    [
        ("code=x&state=other", NotOurs, "state"),
        ("code=x", NotOurs, "copy the whole address"),
        ("", NotOurs, "state"),
        (f"state={STATE}", SettingsError, "no `code`"),
        (f"state={STATE}&error=access_denied", AccessRevoked, "access_denied"),
        (f"state={STATE}&code=x&realmId=2", SettingsError, "is for realmId 1, and consent was given for 2"),
    ],
)
def test_what_is_no_answer(query: str, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=part):
        code_of(consent(expected={"realmId": "1"}), f"https://bus.example/cb?{query}")


def test_the_way_back_is_what_the_vendor_takes() -> None:
    for system, expected in (("quickbooks", "http://localhost:9/callback"), ("exact_online", None)):
        loaded = load(system)
        bare = connection("x", system)
        if expected is None:
            with pytest.raises(SettingsError, match="--redirect-uri"):
                logins.way_back(bare, loaded, 9)
        else:
            assert logins.way_back(bare, loaded, 9) == expected
        own = connection("x", system, token_url="http://127.0.0.1:5/token")
        assert logins.way_back(own, loaded, 9) == "http://127.0.0.1:9/callback", "a simulator takes any"


def test_what_leads_to_this_machine() -> None:
    assert all(map(logins.is_loopback, ("http://127.0.0.1:1/x", "http://localhost:1/x", "http://[::1]:1/x")))
    assert not any(map(logins.is_loopback, ("https://127.0.0.1/x", "http://bus.example/x", "urn:x")))


@pytest.mark.loopback
async def test_the_landing_waits_for_the_right_answer() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}/callback"
    asked = consent(redirect_uri=uri)
    async with Landing(uri, lambda address: code_of(asked, address)) as landing, httpx.AsyncClient(trust_env=False) as browser:
        waiting = asyncio.ensure_future(landing.code(30))
        assert (await browser.get(f"http://127.0.0.1:{port}/favicon.ico")).status_code == 404
        assert (await browser.get(f"{uri}?code=forged&state=wrong")).status_code == 400
        assert not waiting.done()
        assert "can be closed" in (await browser.get(f"{uri}?code=good&state={STATE}")).text
        assert await waiting == "good"


@pytest.mark.loopback
async def test_a_refusal_ends_the_landing() -> None:
    uri = f"http://localhost:{_free_port()}/callback"
    asked = consent(redirect_uri=uri)
    async with Landing(uri, lambda address: code_of(asked, address)) as landing, httpx.AsyncClient(trust_env=False) as browser:
        waiting = asyncio.ensure_future(landing.code(30))
        assert (await browser.get(f"{uri}?error=access_denied&state={STATE}")).status_code == 400
        with pytest.raises(AccessRevoked, match="access_denied"):
            await waiting


@pytest.mark.loopback
async def test_nobody_comes_and_a_port_is_taken() -> None:
    uri = f"http://127.0.0.1:{_free_port()}/callback"
    async with Landing(uri, str) as landing:
        with pytest.raises(SettingsError, match="nobody logged in"):
            await landing.code(0.01)
        with pytest.raises(SettingsError, match="--port"):
            async with Landing(uri, str):
                raise AssertionError("the port is taken")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the whole way, at both simulators ------------------------------------------------------------------------------------------


class Vendor:
    """A simulator without a socket, a person's browser in front of it, and the grants service's part at it."""

    def __init__(self, terminal: Terminal, name: str, system: str, folder: Path) -> None:
        self.board, self.name, self.folder = terminal.board, name, folder
        self.inside = InProcess(importlib.import_module(f"connectors.{system}.simulator").build())
        info = self.inside.info
        old = self.board.published.configuration.connections[name]
        self.document = old.model_copy(update={"token_url": info["token_url"], "config": info["config"]})
        configuration = self.board.published.configuration
        known = {**configuration.connections, name: self.document}
        self.board.published = msgspec.structs.replace(
            self.board.published, configuration=msgspec.structs.replace(configuration, connections=known)
        )
        self.board.settings = self.board.settings.model_copy(
            update={"secrets_dir": folder, "master_key": SecretStr(MasterKey.generate())}
        )
        self.credentials: dict[str, str] = info["credentials"]
        (folder / name).mkdir()
        for key in ("client_id", "client_secret"):
            (folder / name / key).write_text(self.credentials[key])
        self.tokens: list[str] = []
        self.board.answer = self.serve

    def consented(self, url: str) -> str:
        """Where the vendor leads a person who consents."""

        async def visit() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.inside.transport) as browser:
                return await browser.get(url)

        answer = asyncio.run(visit())
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def serve(self, request: RequestRecord) -> None:
        """The grants service: exchanges the code once, in a loop of its own because the command's runs."""
        assert request.kind is RequestKind.LOGIN
        worker = threading.Thread(target=lambda: asyncio.run(self._exchange(request)))
        worker.start()
        worker.join()

    async def _exchange(self, request: RequestRecord) -> None:
        login = open_login(MasterKey.load(self.board.settings), request)
        auth = load(self.document.system).manifest.auth
        desk = OAuth2(
            auth,
            token_url=self.document.token_url or "",
            client_id=SecretStr(self.credentials["client_id"]),
            client_secret=SecretStr(self.credentials["client_secret"]),
            clock=SystemClock(),
            transport=self.inside.transport,
        )
        try:
            tokens = await desk.exchange(login.code, login.redirect_uri)
        except AccessRevoked as error:
            self.board.grant(grant(self.name, GrantState.LOGIN_NEEDED, 4, detail=f"login failed: {error}", requests_offset=9))
            return
        self.tokens.append(tokens.access_token.get_secret_value())
        self.board.grant(grant(self.name, GrantState.ACTIVE, 5, expires_at=tokens.expires_at, requests_offset=9))


VENDORS = [(SHOP, "quickbooks"), (BOOKS, "exact_online")]


@pytest.fixture
def vendor(terminal: Terminal, tmp_path: Path) -> Callable[[str, str], Vendor]:
    return lambda name, system: Vendor(terminal, name, system, tmp_path)


def _page(said: str) -> str:
    return next(line.strip() for line in said.splitlines() if line.startswith("  http"))


@pytest.mark.loopback
@pytest.mark.parametrize(("name", "system"), VENDORS)
def test_a_login_with_the_way_back_to_this_machine(
    terminal: Terminal, vendor: Callable[[str, str], Vendor], monkeypatch: pytest.MonkeyPatch, name: str, system: str
) -> None:
    at = vendor(name, system)
    terminal.board.grant(grant(name, GrantState.LOGIN_NEEDED, 4, detail="consent withdrawn", requests_offset=3))

    def launch(url: str) -> int:
        def person() -> None:
            with httpx.Client(trust_env=False) as browser:
                browser.get(at.consented(url))

        threading.Thread(target=person).start()
        return 0

    monkeypatch.setattr("click.launch", launch)
    said = terminal.said("grants", "login", name, "--port", str(_free_port()))
    assert f"{name}: logged in; grant version 5" in said
    assert at.inside.simulator.tokens.is_valid(at.tokens[0])
    [asked] = terminal.board.asked
    assert (asked.connection, asked.args) == (name, {})
    assert asked.sealed, "a code is sealed"
    query = parse_qs(urlsplit(_page(said)).query)
    assert query["response_type"] == ["code"]
    assert len(query["state"][0]) >= 32


@pytest.mark.loopback
@pytest.mark.parametrize(("name", "system"), VENDORS)
def test_a_login_by_pasting_the_address(
    terminal: Terminal, vendor: Callable[[str, str], Vendor], monkeypatch: pytest.MonkeyPatch, name: str, system: str
) -> None:
    at = vendor(name, system)
    pages: list[str] = []
    monkeypatch.setattr("click.launch", pages.append)
    monkeypatch.setattr("bus.cli.granting.click.prompt", lambda _text, **_more: at.consented(pages[0]))
    said = terminal.said("grants", "login", name, "--redirect-uri", "https://bus.example/cb")
    assert f"{name}: logged in; grant version 5" in said
    assert parse_qs(urlsplit(pages[0]).query)["redirect_uri"] == ["https://bus.example/cb"]


def test_an_address_of_another_login_is_refused_before_anything_is_asked(
    terminal: Terminal, vendor: Callable[[str, str], Vendor]
) -> None:
    vendor(*VENDORS[0])
    words = ("grants", "login", SHOP, "--paste", "--no-browser")
    said = terminal.said(*words, code=78, input="https://bus.example/cb?code=x&state=y\n")
    assert "`state` differs" in said
    assert terminal.board.asked == []


def test_a_refused_code_says_what_the_vendor_said(
    terminal: Terminal, vendor: Callable[[str, str], Vendor], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = vendor(*VENDORS[0])
    terminal.board.grant(grant(SHOP, GrantState.ACTIVE, 4, requests_offset=3))
    pages: list[str] = []
    monkeypatch.setattr("click.launch", pages.append)

    def forged(_text: str, **_more: Any) -> str:
        state = parse_qs(urlsplit(pages[0]).query)["state"][0]
        return f"https://bus.example/cb?code=used&state={state}"

    monkeypatch.setattr("bus.cli.granting.click.prompt", forged)
    said = terminal.said("grants", "login", SHOP, "--paste", code=1)
    assert "refused: login failed" in said
    assert "invalid_grant" in said
    assert at.tokens == []


def test_what_a_login_needs(terminal: Terminal, vendor: Callable[[str, str], Vendor], tmp_path: Path) -> None:
    assert "BUS_MASTER_KEY" in terminal.said("grants", "login", SHOP, code=78)
    vendor(*VENDORS[0])
    assert "unknown connection 'nope'" in terminal.said("grants", "login", "nope", code=78)
    (tmp_path / SHOP / "client_id").unlink()
    assert "has no 'client_id'" in terminal.said("grants", "login", SHOP, code=78)

"""Schema registry: the Confluent-compatible API over httpx, as far as the bus needs it.

API: https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

import json
import ssl
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from bus.core import topics
from bus.core.errors import BusError, NetworkFailure, SettingsError, Unavailable
from bus.kit.transport import is_here
from bus.runtime.settings import BusSettings
from schemas import files, linter

COMPATIBILITY = "FULL_TRANSITIVE"
TIMEOUT_S = 10.0


def subjects() -> dict[str, str]:
    """Every subject with the name of its schema file; what is sealed has none, because it is on no topic by itself."""
    canon = {topics.subject(topics.canonical(entity)): f"canon/{entity}" for entity in topics.ENTITIES}
    system = {topics.subject(topic): name for topic, name in topics.SUBJECTS.items()}
    return canon | system | {topics.OUTBOUND_SUBJECT: topics.schema_of("bus.outbound.any")}


class RegistryClient:
    """One registry. Its calls raise TransientError when it is away: services wait, they do not end."""

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: str = "",
        ca_file: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not url:
            raise SettingsError("BUS_REGISTRY_URL is not set: give it, or start everything with `bus up`")
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            auth=httpx.BasicAuth(user, password) if user else None,
            verify=ssl.create_default_context(cafile=ca_file) if ca_file else True,
            timeout=TIMEOUT_S,
            trust_env=not is_here(url),
            headers={"content-type": "application/vnd.schemaregistry.v1+json"},
            transport=transport,
        )

    @classmethod
    def of(cls, settings: BusSettings) -> Self:
        """The registry that the settings name."""
        password = settings.registry_password
        return cls(
            settings.registry_url,
            user=settings.registry_user,
            password=password.get_secret_value() if password is not None else "",
            ca_file=str(settings.registry_ca_file) if settings.registry_ca_file is not None else None,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes connections."""
        await self._http.aclose()

    async def health(self) -> None:
        """Returns when the registry answers; raises NetworkFailure, Unavailable or SettingsError."""
        await self._call("GET", "/subjects")

    async def lookup(self, subject: str, name: str) -> int:
        """Id of a schema file under a subject. Raises SettingsError when it is not registered."""
        answer = await self._call("POST", f"/subjects/{quote(subject, safe='')}", {"schema": files.text(name)}, may_miss=True)
        if answer is None:
            raise SettingsError(f"schema {name} is not registered under {subject}; run: bus schemas register")
        return int(answer["id"])

    async def ids(self) -> dict[str, int]:
        """Id of this release's schema of every subject."""
        return {subject: await self.lookup(subject, name) for subject, name in subjects().items()}

    async def schema(self, schema_id: int) -> dict[str, Any]:
        """A schema by its id. Raises SettingsError when the registry does not know it."""
        answer = await self._call("GET", f"/schemas/ids/{schema_id}", may_miss=True)
        if answer is None:
            raise SettingsError(
                f"the registry does not know schema id {schema_id}: is BUS_REGISTRY_URL the registry of this cluster?"
            )
        loaded: dict[str, Any] = json.loads(answer["schema"])
        return loaded

    async def versions(self, subject: str) -> list[dict[str, Any]]:
        """All registered schemas of a subject, oldest first; empty when there is none."""
        path = f"/subjects/{quote(subject, safe='')}/versions"
        numbers = await self._call("GET", path, may_miss=True) or []
        found = [await self._call("GET", f"{path}/{number}") for number in sorted(numbers)]
        return [json.loads(answer["schema"]) for answer in found]

    async def set_compatibility(self, subject: str) -> None:
        """FULL_TRANSITIVE on a subject: a registry's own default may be NONE."""
        await self._call("PUT", f"/config/{quote(subject, safe='')}", {"compatibility": COMPATIBILITY})

    async def compatibility(self, subject: str) -> str | None:
        """What a subject is set to; None: nothing of its own."""
        answer = await self._call("GET", f"/config/{quote(subject, safe='')}", may_miss=True)
        return None if answer is None else str(answer.get("compatibilityLevel") or answer.get("compatibility"))

    async def check_all(self) -> list[str]:
        """What speaks against registering this release's schemas: linter and registry, one line each."""
        found: list[str] = []
        for subject, name in subjects().items():
            found += await self._objections(subject, name)
        return found

    async def register_all(self) -> dict[str, int]:
        """Registers every schema; returns the ids. Nothing is registered when anything speaks against it.

        1. lint all, against the frozen history and what is registered; 2. set FULL_TRANSITIVE; 3. register. Raises
        SettingsError with every objection.
        """
        if objections := await self.check_all():  # 1
            raise SettingsError("schemas refused:\n" + "\n".join(objections))
        ids = {}
        for subject, name in subjects().items():
            await self.set_compatibility(subject)  # 2
            path = f"/subjects/{quote(subject, safe='')}/versions"
            answer = await self._call("POST", path, {"schema": files.text(name)})  # 3
            ids[subject] = int(answer["id"])
        return ids

    async def _objections(self, subject: str, name: str) -> list[str]:
        schema = files.load(name)
        found = linter.check(name, schema)
        for number, old in enumerate(await self.versions(subject), 1):
            found += [f"{line} (against registered version {number})" for line in linter.compare(name, old, schema)]
        return found

    async def _call(self, method: str, path: str, body: Any = None, *, may_miss: bool = False) -> Any:
        doing = f"registry {method} {path}"
        try:
            answer = await self._http.request(method, path, content=None if body is None else json.dumps(body))
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise NetworkFailure(
                f"{doing}: no answer ({type(error).__name__}); BUS_REGISTRY_URL says where it is looked for"
            ) from error
        if may_miss and answer.status_code == 404:
            return None
        if answer.is_success:
            return answer.json() if answer.content else None
        raise _refusal(doing, answer)


def _refusal(doing: str, answer: httpx.Response) -> BusError:
    text = f"{doing}: {answer.status_code} {answer.text[:500]}"
    if answer.status_code in (401, 403):
        return SettingsError(f"{text}: check BUS_REGISTRY_USER and BUS_REGISTRY_PASSWORD")
    if answer.status_code >= 500 or answer.status_code in (408, 429):
        return Unavailable(text)
    return SettingsError(text)

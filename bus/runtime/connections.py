"""A connector for one connection: manifest, configuration, credentials, budget and client put together."""

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from bus.core.clock import Clock
from bus.core.configuration import Connection
from bus.core.errors import SettingsError
from bus.kit.auth import TokenSource
from bus.kit.budget import Budgets, Share, part_of
from bus.kit.client import VendorClient
from bus.kit.connector import Connector
from bus.kit.registry import Context, LoadedConnector, load
from bus.runtime import metrics

log = logging.getLogger(__name__)


class OpenConnection:
    """One connection, ready to read or write."""

    def __init__(
        self, document: Connection, loaded: LoadedConnector, connector: Connector, client: VendorClient, budgets: Budgets
    ) -> None:
        self.document = document
        self.manifest = loaded.manifest
        self.connector = connector
        self.client = client
        self.budgets = budgets
        self._waited_s = 0.0

    def report(self) -> None:
        """Tells what is used of the vendor's limits, and how long they were waited for."""
        name = self.document.name
        for limit, used in self.budgets.used().items():
            metrics.put("bus_budget_used", used, connection=name, limit=limit)
        metrics.count("bus_budget_wait_seconds_total", self.budgets.waited_s - self._waited_s, connection=name)
        self._waited_s = self.budgets.waited_s

    async def close(self) -> None:
        """Closes the connector and its client."""
        await self.connector.aclose()
        await self.client.aclose()


def connection_of(document: Mapping[str, Any]) -> Connection:
    """The typed document of a connection."""
    try:
        return Connection.model_validate(document)
    except ValidationError as error:
        raise SettingsError(
            f"connection {document.get('name')}: {error.errors()[0]['msg']}: apply the configuration again"
        ) from error


def base_url_of(document: Connection, loaded: LoadedConnector) -> str:
    """The connection's own base URL, else the manifest's with its placeholders filled."""
    if document.base_url:
        return document.base_url
    config = loaded.config_class.model_validate(document.config)
    return loaded.manifest.base_url.format(**config.model_dump())


def open_connection(document: Connection, tokens: TokenSource, clock: Clock, share: Share) -> OpenConnection:
    """Builds the connector of a connection; makes no call. Raises SettingsError for a wrong `config`."""
    loaded = load(document.system)
    try:
        config = loaded.config_class.model_validate(document.config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"connection {document.name}: config.{where}: {first['msg']}") from error
    budgets = Budgets(loaded.manifest.limits, part=part_of(loaded.manifest, share), clock=clock, quotas=document.quotas)
    client = VendorClient(
        loaded.manifest,
        connection=document.name,
        base_url=base_url_of(document, loaded),
        tokens=tokens,
        budgets=budgets,
        clock=clock,
        share=share,
        on_call=lambda purpose, status: metrics.count(
            "bus_vendor_calls_total", connection=document.name, purpose=purpose, status=str(status or "none")
        ),
    )
    connector = loaded.connector_class(Context(connection=document.name, config=config, client=client, clock=clock))
    return OpenConnection(document, loaded, connector, client, budgets)

"""A connector for one connection: manifest, configuration, credentials, budget and client put together."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from bus.core.clock import Clock
from bus.core.configuration import Connection
from bus.core.errors import SettingsError
from bus.kit.auth import TokenSource
from bus.kit.budget import Budgets
from bus.kit.client import VendorClient
from bus.kit.connector import Connector
from bus.kit.registry import Context, LoadedConnector, load

log = logging.getLogger(__name__)

Share = Literal["poll", "write"]


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
    percent = loaded.manifest.polling_share_pct
    budgets = Budgets(
        loaded.manifest.limits, share_pct=percent if share == "poll" else 100 - percent, clock=clock, quotas=document.quotas
    )
    client = VendorClient(
        loaded.manifest,
        connection=document.name,
        base_url=base_url_of(document, loaded),
        tokens=tokens,
        budgets=budgets,
        clock=clock,
        share=share,
    )
    connector = loaded.connector_class(Context(connection=document.name, config=config, client=client, clock=clock))
    return OpenConnection(document, loaded, connector, client, budgets)

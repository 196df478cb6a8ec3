"""Asks a vendor about one connection, with the grant that the grants service keeps."""

from collections.abc import Callable

from bus.core.clock import SystemClock
from bus.core.errors import SettingsError
from bus.kit.connector import Account
from bus.runtime.codec import Codec
from bus.runtime.connections import open_connection
from bus.runtime.follow import GrantFollower
from bus.runtime.privacy import MasterKey
from bus.runtime.publication import read_published
from bus.runtime.settings import BusSettings
from bus.runtime.turns import in_turn


async def check(settings: BusSettings, codec: Codec, connection: str, told: Callable[[str], None]) -> Account:
    """Who the account is; `told` hears of a wait for another command.

    Raises what the vendor or the grant says, SettingsError for an unknown connection.
    """
    known = (await read_published(settings, codec)).configuration.connections
    if connection not in known:
        raise SettingsError(f"unknown connection {connection!r}: there are {', '.join(sorted(known)) or 'none'}")
    grants = GrantFollower(settings, codec, MasterKey.load(settings))
    await grants.start()
    opened = open_connection(known[connection], grants.tokens(connection), SystemClock(), "people")
    try:
        return await in_turn(settings, [connection], opened.connector.check, told)
    finally:
        await opened.close()
        await grants.stop()

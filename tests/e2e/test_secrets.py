"""Nothing secret and nothing personal is where it may not be: logs, metrics, errors, keys, headers, values."""

from collections.abc import AsyncIterator

import pytest

from bus.core import topics
from bus.runtime.grants import grants_box, open_grant
from bus.runtime.privacy import MasterKey
from bus.runtime.reader import Record
from tests.e2e.test_sink_killed import SALES
from tests.e2e.world import World, plan

pytestmark = [pytest.mark.broker, pytest.mark.e2e]

ORDERS = 24


async def test_secrets_and_personal_data_stay_where_they_belong(world: World) -> None:
    """One run with everything in it: writes, dead letters, a vendor that repeats its own error three times."""
    await world.open([SALES, "customers-qbo-to-exact", "customers-exact-to-qbo"], orders=ORDERS)
    failing = {"match": {"method": "POST"}, "action": "status", "status": 500, "body": "<html>busy</html>", "times": 3}
    await plan(world.exact, failing)
    world.launch()
    await world.quiet()
    secrets = [secret.encode() for secret in await every_secret(world)]
    people = [word.encode() for word in await every_person(world)]
    assert len(secrets) >= 7
    assert len(people) > 20
    told = [process.log.read_bytes() for process in world.processes]
    told += [(await process.ask("/metrics")).content for process in world.processes]
    for text in told:
        assert not found_in(text, secrets + people)
    records = [record async for record in every_record(world)]
    assert {record.topic for record in records} >= {topics.STATE, topics.SEEN, topics.GRANTS, topics.RESULTS, topics.SUBJECT_KEYS}
    for record in records:
        head = b"|".join([record.key, *record.headers.values()])
        assert not found_in(head, secrets + people), f"{record.topic}: key or header"
        assert not found_in(record.value or b"", secrets + people), f"{record.topic}: value"


def found_in(text: bytes, words: list[bytes]) -> list[bytes]:
    return [word for word in words if word in text]


async def every_secret(world: World) -> set[str]:
    """What is in the secrets, the master key, and every token that was ever given."""
    assert world.settings.secrets_dir is not None
    assert world.settings.master_key_file is not None
    places = [place for place in world.settings.secrets_dir.rglob("*") if place.is_file() and place.name != "client_id"]
    box = grants_box(MasterKey.load(world.settings))
    tokens = [open_grant(box, record) for record in (await world.newest(topics.GRANTS)).values()]
    given = [secret.get_secret_value() for token in tokens for secret in (token.access_token, token.refresh_token)]
    return {world.settings.master_key_file.read_text().strip(), *(place.read_text().strip() for place in places), *given}


async def every_person(world: World) -> set[str]:
    """E-mail addresses of both systems."""
    customers = [*(await world.qbo.ask("books"))["customers"], *(await world.exact.ask("books"))["customers"]]
    return {customer["email"] for customer in customers if customer["email"]}


async def every_record(world: World) -> AsyncIterator[Record]:
    """All topics."""
    fixed = [topics.STATE, topics.SEEN, topics.CURSORS, topics.GRANTS, topics.CONFIG, topics.REQUESTS, topics.RESULTS]
    fixed += [topics.DEAD_LETTERS, topics.SUBJECT_KEYS, *map(topics.canonical, topics.ENTITIES)]
    for topic in [*fixed, *map(topics.outbound, world.connections)]:
        for record in await world.records(topic):
            yield record

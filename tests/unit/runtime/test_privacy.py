"""Personal data is sealed per subject, opens only under its own key, and is gone when the key is."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from bus.core.clock import FrozenClock
from bus.core.errors import MappingError, SettingsError
from bus.core.identity import email_index
from bus.runtime.codec import Codec
from bus.runtime.privacy import PLAIN_OF, MasterKey, MissingSubjectKey, NewKey, Privacy, _walk
from bus.runtime.settings import BusSettings
from schemas import canon, files
from schemas.system import SubjectKeyRecord

KEY = bytes(range(32))
PERSON = canon.PartyPii(
    full_name="Zoë de Vries",
    emails=[canon.ContactPoint(type="WORK", value="Zoe@Example.com")],
    addresses=[canon.Address(city="Den Haag", country_code="NL")],
)


@pytest.fixture
def privacy() -> Privacy:
    return Privacy(MasterKey(KEY), clock=FrozenClock())


def order() -> canon.SalesOrder:
    return canon.SalesOrder(
        currency="EUR",
        customer=canon.Party(customer=canon.Ref(id="44"), pii=PERSON),
        bill_to=canon.Party(customer=canon.Ref(id="44"), pii=PERSON),
        ship_to=canon.Party(pii=canon.PartyPii(full_name="Somebody Else")),
        note=canon.NotePii(text="ring twice"),
    )


async def test_sealing_and_opening_gives_the_same_entity(privacy: Privacy) -> None:
    plain = order()
    sealed, _ = await privacy.seal(plain, "acme", "shop")
    opened = privacy.open(sealed)
    assert (opened.customer.pii, opened.ship_to.pii, opened.note) == (PERSON, plain.ship_to.pii, plain.note)  # type: ignore[union-attr]


async def test_nothing_plain_is_left_and_the_codec_takes_it(privacy: Privacy) -> None:
    sealed, _ = await privacy.seal(order(), "acme", "shop")
    text = msgspec.json.encode(sealed)
    for planted in (b"Vries", b"Somebody", b"Haag", b"ring twice", b"xample"):
        assert planted not in text
    meta = canon.EventMeta(
        event_id="1", seq=1, tenant="acme", system="s", connection="shop", entity="sales_order", source_id="1",
        observed_at=datetime.now(UTC), content_hash="",
    )  # fmt: skip
    data = Codec.offline().encode("bus.canon.sales-order", canon.SalesOrderEvent(meta=meta, after=sealed))
    assert b"Vries" not in data


async def test_contacts_are_subjects_of_their_own(privacy: Privacy) -> None:
    contact = canon.Contact(id="7", pii=canon.PartyPii(full_name="Jan"))
    customer = canon.Customer(number="12", pii=PERSON, contacts=[contact], note=canon.NotePii(text="late payer"))
    sealed, keys = await privacy.seal(customer, "acme", "shop")
    assert isinstance(sealed.pii, canon.Sealed)
    assert isinstance(sealed.contacts[0].pii, canon.Sealed)
    assert sealed.pii.key_id != sealed.contacts[0].pii.key_id
    assert len(keys) == 3
    assert privacy.open(sealed).contacts[0].pii == contact.pii


async def test_one_person_has_one_key_within_an_entity_and_across_events(privacy: Privacy) -> None:
    first, keys = await privacy.seal(order(), "acme", "shop")
    assert first.customer is not None
    assert first.bill_to is not None
    assert first.customer.pii.key_id == first.bill_to.pii.key_id  # type: ignore[union-attr]
    assert len(keys) == 3
    second, again = await privacy.seal(order(), "acme", "shop")
    assert second.customer.pii.key_id == first.customer.pii.key_id  # type: ignore[union-attr]
    assert again == keys


async def test_the_same_id_at_another_account_or_tenant_is_another_person(privacy: Privacy) -> None:
    ids = set()
    for tenant, connection in (("acme", "shop"), ("acme", "books"), ("other", "shop")):
        sealed, _ = await privacy.seal(order(), tenant, connection)
        ids.add(sealed.customer.pii.key_id)  # type: ignore[union-attr]
    assert len(ids) == 3


async def test_a_shared_address_alone_does_not_share_a_key(privacy: Privacy) -> None:
    emails = [canon.ContactPoint(type="WORK", value="info@devries.example")]
    parties = [canon.Party(pii=canon.PartyPii(full_name=name, emails=emails)) for name in ("Jan", "Piet")]
    sealed, _ = await privacy.seal(canon.SalesOrder(currency="EUR", customer=parties[0], ship_to=parties[1]), "acme", "shop")
    assert sealed.customer.pii.key_id != sealed.ship_to.pii.key_id  # type: ignore[union-attr]


async def test_the_email_index_and_the_subject_are_filled_and_tell_nothing(privacy: Privacy) -> None:
    sealed, keys = await privacy.seal(order(), "acme", "shop")
    assert sealed.customer is not None
    assert sealed.customer.email_index == email_index(PERSON, privacy.tenant_hasher("acme"))
    assert sealed.customer.subject == keys[0].record.subject
    assert "44" not in (sealed.customer.subject or "44")


async def test_a_key_goes_with_every_blob_until_it_is_published(privacy: Privacy) -> None:
    _, keys = await privacy.seal(order(), "acme", "shop")
    privacy.published(keys)
    assert (await privacy.seal(order(), "acme", "shop"))[1] == []


async def test_seen_on_the_topic_counts_as_published(privacy: Privacy) -> None:
    _, keys = await privacy.seal(order(), "acme", "shop")
    for key in keys:
        privacy.apply(key.key_id, key.record)
    assert (await privacy.seal(order(), "acme", "shop"))[1] == []


async def test_another_process_reads_with_the_published_keys_only(privacy: Privacy) -> None:
    sealed, keys = await privacy.seal(order(), "acme", "shop")
    other = Privacy(MasterKey(KEY))
    with pytest.raises(MissingSubjectKey) as caught:
        other.open(sealed)
    assert caught.value.key_id in {key.key_id for key in keys}
    for key in keys:
        other.apply(key.key_id, key.record)
    assert other.open(sealed).note == canon.NotePii(text="ring twice")


async def test_another_process_goes_on_with_the_same_key(privacy: Privacy) -> None:
    sealed, keys = await privacy.seal(order(), "acme", "shop")
    other = Privacy(MasterKey(KEY))
    for key in keys:
        other.apply(key.key_id, key.record)
    again, new = await other.seal(order(), "acme", "shop")
    assert new == []
    assert again.customer.pii.key_id == sealed.customer.pii.key_id  # type: ignore[union-attr]


async def test_an_erased_key_reads_as_nobody_and_a_new_key_is_made(privacy: Privacy) -> None:
    sealed, keys = await privacy.seal(order(), "acme", "shop")
    for key in keys:
        privacy.apply(key.key_id, msgspec.structs.replace(key.record, wrapped=None, erased=True))
    opened = privacy.open(sealed)
    assert opened.customer is not None
    assert (opened.customer.pii, opened.note) == (None, None)
    again, _ = await privacy.seal(order(), "acme", "shop")
    assert again.customer.pii.key_id != sealed.customer.pii.key_id  # type: ignore[union-attr]


async def test_a_tombstone_is_not_an_erasure(privacy: Privacy) -> None:
    sealed, keys = await privacy.seal(order(), "acme", "shop")
    for key in keys:
        privacy.apply(key.key_id, None)
    assert privacy.open(sealed).customer.pii == PERSON  # type: ignore[union-attr]


async def test_a_blob_moved_to_another_subject_or_field_does_not_open(privacy: Privacy) -> None:
    sealed, _ = await privacy.seal(order(), "acme", "shop")
    customer, ship_to, note = sealed.customer, sealed.ship_to, sealed.note
    assert isinstance(customer.pii, canon.Sealed)  # type: ignore[union-attr]
    assert isinstance(ship_to.pii, canon.Sealed)  # type: ignore[union-attr]
    assert isinstance(note, canon.Sealed)
    moved = canon.Sealed(key_id=ship_to.pii.key_id, blob=customer.pii.blob)  # type: ignore[union-attr]
    for swapped in (canon.Party(pii=moved), canon.Party(pii=note)):
        with pytest.raises(MappingError, match="does not open"):
            privacy.open(canon.SalesOrder(currency="EUR", customer=swapped))


async def test_nonces_do_not_repeat(privacy: Privacy) -> None:
    blobs = {(await privacy.seal(order(), "acme", "shop"))[0].note.blob for _ in range(50)}  # type: ignore[union-attr]
    assert len({blob[:12] for blob in blobs}) == 50


async def test_vendor_bytes_are_sealed_under_a_key_of_the_connection(privacy: Privacy) -> None:
    sealed, keys = privacy.seal_bytes(b'{"Email": "zoe@example.com"}', tenant="acme", connection="shop")
    assert b"zoe" not in sealed.blob
    assert [key.key_id for key in keys] == [sealed.key_id]
    assert privacy.open_bytes(sealed) == b'{"Email": "zoe@example.com"}'
    same, _ = privacy.seal_bytes(b"other", tenant="acme", connection="shop")
    assert same.key_id == sealed.key_id


async def test_key_records_are_ready_to_publish(privacy: Privacy) -> None:
    codec = Codec.offline()
    _, keys = await privacy.seal(order(), "acme", "shop")
    records = privacy.records(keys, codec)
    assert [record.key for record in records] == [key.key_id for key in keys]
    read = [NewKey(record.key, codec.decode(record.topic, record.value or b"")) for record in records]
    assert read == keys


async def test_sealing_twice_changes_nothing(privacy: Privacy) -> None:
    sealed, _ = await privacy.seal(order(), "acme", "shop")
    assert (await privacy.seal(sealed, "acme", "shop"))[0] == sealed


def test_every_sealed_field_of_the_schemas_is_walked() -> None:
    found = {}
    for name in files.names():
        for line in _sealed_fields(files.load(name)):
            found |= line
    assert found == PLAIN_OF


def _sealed_fields(schema: Any) -> list[dict[str, str]]:
    if isinstance(schema, list):
        return [line for branch in schema for line in _sealed_fields(branch)]
    if not isinstance(schema, dict):
        return []
    lines = [{field["name"]: field["seals"]} for field in schema.get("fields", []) if "seals" in field]
    inner = [field["type"] for field in schema.get("fields", [])] + [schema.get("items"), schema.get("values")]
    return lines + [line for part in inner for line in _sealed_fields(part)]


def test_records_that_hold_sealed_fields_are_those_the_walk_knows() -> None:
    """A new record with a sealed field, or a party in a list, would stay plain: the walk must be told of it."""
    holders = {
        name
        for name, cls in vars(canon).items()
        if isinstance(cls, type)
        and issubclass(cls, msgspec.Struct)
        and set(getattr(cls, "__struct_fields__", ())) & set(PLAIN_OF)
    }
    assert holders == {"Contact", "Customer", "Party", "SalesInvoice", "SalesOrder"}
    seen: list[str] = []
    entity = canon.SalesInvoice(
        currency="EUR", customer=canon.Party(pii=PERSON), bill_to=canon.Party(pii=PERSON), ship_to=canon.Party(pii=PERSON),
        note=canon.NotePii(text="x"),
    )  # fmt: skip
    _walk(entity, lambda owner, name, _value: seen.append(f"{type(owner).__name__}.{name}") or {})
    assert sorted(seen) == ["Party.pii", "Party.pii", "Party.pii", "SalesInvoice.note"]


# --- master key --------------------------------------------------------------------------------------------------------------


def test_a_missing_master_key_says_its_name_and_how_to_make_one() -> None:
    with pytest.raises(SettingsError, match=r"BUS_MASTER_KEY_FILE is not set.*os\.urandom\(32\)"):
        MasterKey.load(BusSettings())


def test_a_master_key_comes_from_a_file_or_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    path.write_text(base64.b64encode(KEY).decode() + "\n")
    from_file = MasterKey.load(BusSettings(master_key_file=path))
    from_variable = MasterKey.load(BusSettings(master_key=SecretStr(base64.b64encode(KEY).decode())))
    assert from_file.derive("x") == from_variable.derive("x")


@pytest.mark.parametrize(
    ("text", "says"), [("not base64!", "is not base64"), (base64.b64encode(b"short").decode(), "has 5 bytes")]
)
def test_a_wrong_master_key_is_refused_without_showing_it(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "master.key"
    path.write_text(text)
    with pytest.raises(SettingsError, match=says) as caught:
        MasterKey.load(BusSettings(master_key_file=path))
    assert text not in str(caught.value)


def test_a_master_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        MasterKey.load(BusSettings(master_key_file=tmp_path / "none"))


def test_a_generated_key_works() -> None:
    assert MasterKey.decode(MasterKey.generate(), "x").box("a").seal(b"x", "about")


def test_boxes_and_tenants_have_keys_of_their_own() -> None:
    master = MasterKey(KEY)
    blob = master.box("grants").seal(b"token", "grant|a")
    assert master.box("grants").open(blob, "grant|a") == b"token"
    for box, about in ((master.box("requests"), "grant|a"), (master.box("grants"), "grant|b")):
        with pytest.raises(SettingsError, match="another master key"):
            box.open(blob, about)
    assert master.tenant_hasher("a").hex(b"x") != master.tenant_hasher("b").hex(b"x")


def test_another_master_key_opens_nothing() -> None:
    wrapped = MasterKey(KEY).wrap(bytes(32), "k", "acme")
    with pytest.raises(SettingsError, match="another master key"):
        MasterKey(bytes(32)).unwrap(wrapped, "k", "acme")
    record = SubjectKeyRecord(tenant="acme", subject="s", wrapped=wrapped, made_at=datetime.now(UTC))
    assert b"\0" * 32 not in (record.wrapped or b"")

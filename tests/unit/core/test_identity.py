"""Identity: what counts as the same."""

import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.core import topics
from bus.core.identity import (
    Hasher,
    command_id,
    create_key,
    event_id,
    match_email,
    match_keys,
    match_sku,
    match_vat,
    told_together,
)
from schemas import canon

HASHER = Hasher(b"tenant")


@pytest.mark.parametrize("sku", ["AB-1001-XL", " ab-1001-xl ", "AB‑1001‑XL"])
def test_skus_that_mean_one_product(sku: str) -> None:
    assert match_sku(sku) == "ab-1001-xl"


def test_leading_zeros_are_significant() -> None:
    assert match_sku("00123") != match_sku("123")


def test_an_email_keeps_its_dots_and_tags_and_loses_its_case() -> None:
    assert match_email(" José.Núñez+Shop@BÜCHER.example ") == "josé.núñez+shop@xn--bcher-kva.example"
    assert match_email("not-an-address") == "not-an-address"


def test_a_greek_vat_number_has_one_form() -> None:
    assert match_vat("GR 123.456.789") == match_vat("el123456789")


@given(st.text(min_size=1, max_size=20))
def test_one_text_in_two_unicode_forms_has_one_key(text: str) -> None:
    pair = [unicodedata.normalize(form, f"{text}@x.test") for form in ("NFC", "NFD")]
    assert match_email(pair[0]) == match_email(pair[1])


def test_ids_are_stable_and_tell_versions_apart() -> None:
    assert event_id("a|customer|1", 5) == event_id("a|customer|1", 5) != event_id("a|customer|1", 6)
    assert command_id("k", 5, "f", 1) != command_id("k", 5, "f", 2)
    assert create_key("t", "customer", "k", None, 0) != create_key("t", "customer", "k", "SEK", 0)
    assert create_key("t", "customer", "k", None, 0) != create_key("t", "customer", "k", None, 1)


def test_hashes_of_two_tenants_are_not_comparable() -> None:
    customer = canon.Customer(company_name="A")
    assert Hasher(b"one").content(customer) != Hasher(b"two").content(customer)


def test_an_absent_field_and_an_empty_one_are_the_same_fact() -> None:
    assert HASHER.content(canon.Customer()) == HASHER.content(canon.Customer(contacts=[], company_name=None))


def test_a_sealed_party_matches_by_its_index() -> None:
    plain = canon.Customer(
        kind=canon.CustomerKind.PERSON, pii=canon.PartyPii(emails=[canon.ContactPoint(type="WORK", value="A@x.test")])
    )
    index = HASHER.hex(b"a@x.test", 16)
    sealed = canon.Customer(kind=canon.CustomerKind.PERSON, email_index=[index], pii=canon.Sealed(key_id="k", blob=b"x"))
    assert match_keys(plain, HASHER) == match_keys(sealed, HASHER)


@given(st.lists(st.text(min_size=1, max_size=10), min_size=1, max_size=4))
def test_keys_come_apart_as_they_were_put_together(parts: list[str]) -> None:
    assert topics.split_key(topics.key(*parts)) == tuple(parts)


def test_a_connection_keeps_its_slot() -> None:
    assert topics.slot_of("exact-nl", 8) == topics.slot_of("exact-nl", 8)
    assert {topics.slot_of(f"c{n}", 8) for n in range(200)} == set(range(8))


def test_a_name_moves_its_parts_and_nothing_else() -> None:
    assert {"full_name", "family_name", "given_name"} <= told_together({"full_name"})
    assert "email" not in told_together({"full_name"})
    assert "country_code" in told_together({"address.BILLING"})
    assert told_together({"payment_term"}) == {"payment_term"}


@pytest.mark.parametrize("form", ["79.95", "79.9500", "79.95000000", "7995E-2"])
def test_a_price_is_the_same_however_many_zeros_it_bears(form: str) -> None:
    def product(net: str, sku: str = "1.10") -> canon.Product:
        price = canon.ProductPrice(currency="EUR", value=Decimal(net), price_list="4.50 per m")
        return canon.Product(sku=sku, prices=[price])

    hasher = Hasher(b"tenant")
    assert hasher.fields(product(form)) == hasher.fields(product("79.95"))
    assert hasher.fields(product(form))["prices"] != hasher.fields(product("79.96"))["prices"]
    assert hasher.fields(product(form))["sku"] != hasher.fields(product(form, sku="1.1"))["sku"], "a text is no number"


def test_zero_has_many_forms_and_a_text_in_a_list_none() -> None:
    hasher = Hasher(b"tenant")
    assert hasher.fields(canon.Product(weight_g=Decimal("0E-8"))) == hasher.fields(canon.Product(weight_g=Decimal("0.0")))
    one, other = (canon.Product(attributes={"length": text}) for text in ('5.10"', '5.1"'))
    assert hasher.fields(one) != hasher.fields(other)

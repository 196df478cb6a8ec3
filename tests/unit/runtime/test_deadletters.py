import re
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner

from bus.cli.group import bus
from bus.core import errors
from bus.runtime.codec import Codec
from bus.runtime.deadletters import HINTS, ORIGINAL_BYTES_MAX, cause_of, dead_letter, outgoing
from schemas.system import Cause, DeadLetter, ObjectRef

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def letter(error: BaseException, **members: Any) -> DeadLetter:
    return dead_letter(error, stage="sink", connection="books", made_at=NOW, **members)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (errors.MappingError("x"), Cause.MAPPING_ERROR),
        (errors.WriteRejected("x"), Cause.WRITE_REJECTED),
        (errors.MissingDependency("x", missing=["sku:A"]), Cause.MISSING_DEPENDENCY),
        (errors.RecordError("x", cause=Cause.TOO_LARGE), Cause.TOO_LARGE),
        (errors.AccessRevoked("x"), Cause.CREDENTIAL),
        (errors.Unavailable("x"), Cause.CONNECTION_UNAVAILABLE),
        (errors.ApiChanged("x"), Cause.UNRESOLVED_REFERENCE),
        (errors.SettingsError("x"), Cause.UNKNOWN),
        (KeyError("x"), Cause.BUG),
    ],
)
def test_every_failure_has_a_cause_of_the_closed_list(error: BaseException, cause: Cause) -> None:
    assert cause_of(error) is cause
    assert letter(error).cause is cause


def test_every_cause_has_a_hint() -> None:
    assert set(HINTS) == set(Cause)


def test_hints_name_only_what_exists() -> None:
    named = {name for hint in HINTS.values() for name in re.findall(r"`bus ([a-z -]+)`", hint)}
    assert named >= {"apply", "brake list", "dead-letters redrive", "dead-letters show", "grants list", "link"}
    assert sum(hint.count("`bus ") for hint in HINTS.values()) == sum(
        len(re.findall(r"`bus [a-z -]+`", hint)) for hint in HINTS.values()
    ), "each is looked up"
    for name in named:
        assert CliRunner().invoke(bus, [*name.split(), "--help"]).exit_code == 0, name


def test_the_errors_own_hint_wins() -> None:
    assert letter(errors.MappingError("x", hint="write 2")).hint == "write 2"
    assert letter(errors.MappingError("x")).hint == HINTS[Cause.MAPPING_ERROR]


def test_a_bug_tells_type_and_place_but_never_its_message() -> None:
    try:
        {}["Jan de Vries"]
    except KeyError as error:
        found = letter(error)
    assert found.detail.startswith("KeyError at test_deadletters.py:")
    assert "Vries" not in found.detail


def test_what_is_missing_is_spelt_out_and_addresses_are_not() -> None:
    found = letter(errors.MissingDependency("no product for zoe@example.com", missing=["sku:AB-1", "sku:AB-2"]))
    assert "sku:AB-1, sku:AB-2" in found.detail
    assert "@" not in found.detail


def test_an_original_that_does_not_fit_is_left_out_and_told() -> None:
    found = letter(errors.RecordError("x", cause=Cause.TOO_LARGE), original=b"x" * (ORIGINAL_BYTES_MAX + 1), key_id="k")
    assert (found.original, found.key_id) == (None, None)
    assert "original left out" in found.detail


def test_it_is_keyed_by_its_source_and_reads_back() -> None:
    codec = Codec.offline()
    source = ObjectRef(connection="shop", entity="sales_order", id="a|1")
    found = letter(errors.WriteRejected("no"), source=source, flow="orders", seq=5, original=b"bytes", trace="t")
    record = outgoing(found, codec)
    assert (record.topic, record.partition, record.key) == ("bus.dead-letters", None, "shop|sales_order|a%7C1")
    assert codec.decode(record.topic, record.value or b"") == found
    assert outgoing(letter(errors.WriteRejected("no")), codec).key == "books"

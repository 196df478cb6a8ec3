"""Personal data on topics (law 20): sealed per subject, readable only with a key that can be deleted.

Layouts, for ever:
- `Sealed.blob` = 12-byte random nonce, AES-256-GCM ciphertext, 16-byte tag. Plain text: the sealed Struct as JSON (absent fields
  left out). Additional data: `<key id>|<full name of the plain schema>`, so that no blob can be moved to another subject.
- Record on bus.subject-keys: key = random key id; `wrapped` = nonce, ciphertext, tag of the 32-byte data key under the master
  key, additional data `subject-key|<key id>|<tenant>`; `subject` = keyed hash of whom it is about; `erased` = permanent marker.
- Everything else under the master key goes through a `Box`: its own key, derived by HKDF-SHA-256 from the master key and the
  box's purpose.

A subject may have several keys (two pollers may meet it at once). A key is handed out with every blob until it is known to be
published, so that it commits before or with its first blob. A missing key means wait; an erased one means the person is gone.
"""

import base64
import binascii
import functools
import os
import secrets as tokens
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, get_args, get_type_hints

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bus.core import topics
from bus.core.clock import Clock, SystemClock
from bus.core.errors import MappingError, SettingsError, TransientError
from bus.core.identity import Hasher, email_index
from bus.runtime.codec import Codec
from bus.runtime.publisher import Outgoing
from bus.runtime.settings import BusSettings
from schemas import canon
from schemas.system import SubjectKeyRecord

T = TypeVar("T", bound=msgspec.Struct)

NONCE_BYTES = 12
KEY_BYTES = 32
CIPHERS_MAX = 200_000
"""Unwrapped data keys kept in memory; the rest is unwrapped again when met."""
BYTES_SCHEMA = "bytes"
"""Stands for the schema name where raw bytes are sealed."""

HOW_TO_MAKE = (
    'make one with: python -c "import base64, os; print(base64.b64encode(os.urandom(32)).decode())" > master.key; '
    "chmod 600 master.key"
)

_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "bus.canon.PartyPii": msgspec.json.Decoder(canon.PartyPii),
    "bus.canon.NotePii": msgspec.json.Decoder(canon.NotePii),
}


class MissingSubjectKey(TransientError):
    """The key of a sealed blob has not been seen yet: wait for bus.subject-keys, never guess that it was erased."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"subject key {key_id} is not here yet", retry_after_s=1.0)
        self.key_id = key_id


class NewKey(NamedTuple):
    """A key to commit before or with the blobs that need it."""

    key_id: str
    record: SubjectKeyRecord


class Box:
    """Seals bytes for one purpose under a key derived from the master key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, data: bytes, about: str) -> bytes:
        """Nonce, ciphertext, tag. `about` must be the same when opening."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, about.encode())

    def open(self, blob: bytes, about: str) -> bytes:
        """The plain bytes. Raises SettingsError: only another master key, or a blob moved by hand, fails here."""
        try:
            return self._cipher.decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], about.encode())
        except (InvalidTag, ValueError):
            raise SettingsError(
                f"{about.partition('|')[0]}: sealed under another master key: set the one it was sealed with"
            ) from None


class MasterKey:
    """The one key that everything sealed depends on: a mounted secret, later a KMS behind the same two methods."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SettingsError(f"the master key has {len(key)} bytes, needs {KEY_BYTES}: {HOW_TO_MAKE}")
        self._key = key
        self._wrap = Box(key)

    @classmethod
    def load(cls, settings: BusSettings) -> "MasterKey":
        """From BUS_MASTER_KEY_FILE or BUS_MASTER_KEY. Raises SettingsError that says how to make one."""
        if settings.master_key_file is not None:
            try:
                return cls.decode(settings.master_key_file.read_text(), "BUS_MASTER_KEY_FILE")
            except OSError as error:
                reason = f"BUS_MASTER_KEY_FILE {settings.master_key_file}: {error.strerror}"
                raise SettingsError(f"{reason}; {HOW_TO_MAKE}") from None
            except UnicodeDecodeError:
                raise SettingsError(f"BUS_MASTER_KEY_FILE {settings.master_key_file} is not base64: {HOW_TO_MAKE}") from None
        if settings.master_key is not None:
            return cls.decode(settings.master_key.get_secret_value(), "BUS_MASTER_KEY")
        raise SettingsError(f"BUS_MASTER_KEY_FILE is not set: personal data cannot be sealed; {HOW_TO_MAKE}")

    @classmethod
    def decode(cls, text: str, name: str) -> "MasterKey":
        """From base64; `name` is what the message speaks of, never the value."""
        try:
            return cls(base64.b64decode(text.strip(), validate=True))
        except binascii.Error:
            raise SettingsError(f"{name} is not base64: {HOW_TO_MAKE}") from None

    @staticmethod
    def generate() -> str:
        """A new key as base64, for a demo or a test."""
        return base64.b64encode(os.urandom(KEY_BYTES)).decode()

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose."""
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=f"bus|{purpose}".encode()).derive(self._key)

    def box(self, purpose: str) -> Box:
        """Seals for one purpose: `grants`, `requests`."""
        return Box(self.derive(f"box|{purpose}"))

    def tenant_hasher(self, tenant: str) -> Hasher:
        """Keyed hashes of one tenant: comparable within it, useless outside."""
        return Hasher(self.derive(f"tenant|{tenant}"))

    def wrap(self, key: bytes, key_id: str, tenant: str) -> bytes:
        """A data key as it may stand on a topic."""
        return self._wrap.seal(key, f"subject-key|{key_id}|{tenant}")

    def unwrap(self, wrapped: bytes, key_id: str, tenant: str) -> bytes:
        """The data key. Raises SettingsError under another master key."""
        return self._wrap.open(wrapped, f"subject-key|{key_id}|{tenant}")


class Privacy:
    """Seals and opens canonical entities. Fed with bus.subject-keys by `apply` (see bus.runtime.follow.SubjectKeys)."""

    def __init__(self, master: MasterKey, *, clock: Clock | None = None) -> None:
        self._master = master
        self._clock = clock or SystemClock()
        self._records: dict[str, SubjectKeyRecord] = {}
        self._by_subject: dict[tuple[str, str], str] = {}
        self._unpublished: dict[str, SubjectKeyRecord] = {}
        self._ciphers: OrderedDict[str, AESGCM] = OrderedDict()
        self._hashers: dict[str, Hasher] = {}

    def tenant_hasher(self, tenant: str) -> Hasher:
        """Keyed hashes of one tenant."""
        found = self._hashers.get(tenant)
        if found is None:
            found = self._hashers[tenant] = self._master.tenant_hasher(tenant)
        return found

    # --- keys --------------------------------------------------------------------------------------------------------------

    def apply(self, key_id: str, record: SubjectKeyRecord | None) -> None:
        """Takes a committed record of bus.subject-keys; None is a tombstone and changes nothing that is known."""
        self._unpublished.pop(key_id, None)
        if record is None:
            return
        self._records[key_id] = record
        place = (record.tenant, record.subject)
        if record.erased or record.wrapped is None:
            self._ciphers.pop(key_id, None)
            if self._by_subject.get(place) == key_id:
                del self._by_subject[place]
        else:
            self._by_subject.setdefault(place, key_id)

    def published(self, keys: Sequence[NewKey]) -> None:
        """To be called after their commit: from now on these keys need not be sent again."""
        for key in keys:
            self._unpublished.pop(key.key_id, None)

    def records(self, keys: Sequence[NewKey], codec: Codec) -> list[Outgoing]:
        """The records to put in front of the blobs in the same transaction."""
        topic = topics.SUBJECT_KEYS
        return [Outgoing(topic, None, key.key_id, codec.encode(topic, key.record)) for key in keys]

    def _hash_of(self, tenant: str, subject: str) -> str:
        return self.tenant_hasher(tenant).hex(f"subject|{subject}".encode(), 16)

    def _key_of(self, tenant: str, subject: str) -> str:
        hashed = self._hash_of(tenant, subject)
        key_id = self._by_subject.get((tenant, hashed))
        if key_id is None:
            key_id, key = tokens.token_hex(16), AESGCM.generate_key(KEY_BYTES * 8)
            wrapped = self._master.wrap(key, key_id, tenant)
            record = SubjectKeyRecord(tenant=tenant, subject=hashed, wrapped=wrapped, made_at=self._clock.now())
            self.apply(key_id, record)
            self._unpublished[key_id] = record
            self._keep(key_id, AESGCM(key))
        return key_id

    def _keep(self, key_id: str, cipher: AESGCM) -> None:
        self._ciphers[key_id] = cipher
        if len(self._ciphers) > CIPHERS_MAX:
            self._ciphers.popitem(last=False)

    def _cipher(self, key_id: str) -> AESGCM | None:
        """The cipher of a key; None when it was erased. Raises MissingSubjectKey."""
        found = self._ciphers.get(key_id)
        if found is not None:
            return found
        record = self._records.get(key_id)
        if record is None:
            raise MissingSubjectKey(key_id)
        if record.erased or record.wrapped is None:
            return None
        cipher = AESGCM(self._master.unwrap(record.wrapped, key_id, record.tenant))
        self._keep(key_id, cipher)
        return cipher

    # --- bytes -------------------------------------------------------------------------------------------------------------

    def _encrypt(self, key_id: str, data: bytes, schema: str) -> bytes:
        cipher = self._cipher(key_id)
        if cipher is None:
            raise MissingSubjectKey(key_id)
        nonce = os.urandom(NONCE_BYTES)
        return nonce + cipher.encrypt(nonce, data, f"{key_id}|{schema}".encode())

    def _decrypt(self, key_id: str, blob: bytes, schema: str) -> bytes | None:
        cipher = self._cipher(key_id)
        if cipher is None:
            return None
        try:
            return cipher.decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], f"{key_id}|{schema}".encode())
        except (InvalidTag, ValueError):
            raise MappingError(
                f"a sealed {schema} under key {key_id} does not open", hint="the blob was damaged or moved to another subject"
            ) from None

    def seal_bytes(self, data: bytes, *, tenant: str, connection: str) -> tuple[canon.Sealed, list[NewKey]]:
        """Vendor bytes for a dead letter, under a key of the connection, and the keys to commit with them."""
        key_id = self._key_of(tenant, f"connection|{connection}")
        return canon.Sealed(key_id=key_id, blob=self._encrypt(key_id, data, BYTES_SCHEMA)), self._new([key_id])

    def open_bytes(self, sealed: canon.Sealed) -> bytes | None:
        """The bytes; None when the key was erased. Raises MissingSubjectKey."""
        return self._decrypt(sealed.key_id, sealed.blob, BYTES_SCHEMA)

    def _new(self, key_ids: Sequence[str]) -> list[NewKey]:
        return [NewKey(key_id, self._unpublished[key_id]) for key_id in dict.fromkeys(key_ids) if key_id in self._unpublished]

    # --- entities ----------------------------------------------------------------------------------------------------------

    async def seal(self, entity: T, tenant: str, connection: str = "") -> tuple[T, list[NewKey]]:
        """The entity with every plain personal record sealed, `subject` and `email_index` filled, and the keys to commit with it.

        `connection` is whose ids the entity speaks of; see `subject_of` for whose key each part goes under.
        """
        hasher, used = self.tenant_hasher(tenant), list[str]()

        def change(owner: msgspec.Struct, name: str, value: Any) -> dict[str, Any]:
            if isinstance(value, canon.Sealed):
                return {}
            plain = _ENCODER.encode(value)
            subject = subject_of(owner, value, connection, hasher)
            key_id = self._key_of(tenant, subject)
            used.append(key_id)
            blob = self._encrypt(key_id, plain, f"bus.canon.{type(value).__name__}")
            changes: dict[str, Any] = {name: canon.Sealed(key_id=key_id, blob=blob)}
            if isinstance(value, canon.PartyPii):
                changes["email_index"] = email_index(value, hasher)
            if "subject" in owner.__struct_fields__ and not getattr(owner, "subject", None):
                changes["subject"] = self._hash_of(tenant, subject)
            return changes

        return _walk(entity, change), self._new(used)

    def open(self, entity: T) -> T:
        """The entity with every sealed record open; a record whose key was erased is None.

        Raises MissingSubjectKey: wait for the key.
        """

        def change(owner: msgspec.Struct, name: str, value: Any) -> dict[str, Any]:
            if not isinstance(value, canon.Sealed):
                return {}
            schema = PLAIN_OF[name]
            data = self._decrypt(value.key_id, value.blob, schema)
            return {name: None if data is None else _DECODERS[schema].decode(data)}

        return _walk(entity, change)


PLAIN_OF = {"pii": "bus.canon.PartyPii", "note": "bus.canon.NotePii"}
"""Names of sealed fields and the plain schema each seals; a test compares it with the `seals` attributes of the .avsc files."""


def subject_of(owner: msgspec.Struct, value: Any, connection: str, hasher: Hasher) -> str:
    """Whom a plain record is about: what the mapping said, else the object at the connection, else the person it describes.

    Ids count within their connection only, because ids of two accounts are never comparable. Of a person without one, e-mail
    addresses and name together decide: two people never share a key for a shared address alone.
    """
    if named := getattr(owner, "subject", None):
        return f"named|{connection}|{named}"
    if isinstance(owner, canon.Party) and owner.customer is not None and owner.customer.id:
        return f"customer|{connection}|{owner.customer.id}"
    if isinstance(owner, canon.Contact) and owner.id:
        return f"contact|{connection}|{owner.id}"
    if isinstance(owner, canon.Customer) and isinstance(value, canon.PartyPii) and owner.number:
        return f"number|{connection}|{owner.number}"
    if isinstance(value, canon.PartyPii) and (value.emails or value.full_name):
        return "|".join(["person", connection, *email_index(value, hasher), value.full_name or ""])
    return f"content|{connection}|{hasher.hex(_ENCODER.encode(value))}"


Change: TypeAlias = Callable[[msgspec.Struct, str, Any], dict[str, Any]]


@functools.cache
def _places(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """The few fields of a class that may hold sealed fields, parties or contacts."""
    names = {name for name, held in get_type_hints(kind).items() if canon.Party in (held, *get_args(held))}
    return tuple(name for name in kind.__struct_fields__ if name in names or name in PLAIN_OF or name == "contacts")


def _walk(entity: T, change: Change) -> T:
    """Applies `change` to every sealed field of an entity, its parties and its contacts."""
    changes: dict[str, Any] = {}
    for name in _places(type(entity)):
        value = getattr(entity, name)
        if value is None:
            continue
        if name in PLAIN_OF and isinstance(value, canon.Sealed | canon.PartyPii | canon.NotePii):
            changes |= change(entity, name, value)
        elif isinstance(value, canon.Party):
            changes[name] = _walk(value, change)
        elif name == "contacts" and value:
            changes[name] = [_walk(contact, change) for contact in value]
    return msgspec.structs.replace(entity, **changes) if changes else entity

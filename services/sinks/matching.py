"""Which object of this account is meant: our own records first, then the vendor's search.

A match only ever creates a link; it never replaces one. More than one candidate stops the write: a person decides (law 7).
"""

from collections.abc import Iterable, Sequence

from bus.core.errors import AmbiguousMatch
from bus.core.identity import Hasher, match_keys, sku_key
from bus.kit.connector import Connector, Found, Match
from bus.runtime.state import AccountState
from schemas import canon
from schemas.canon import CustomerKind

Matchable = canon.Customer | canon.Party
Candidate = tuple[Found, object]
"""An object that may be meant, with what it holds in canonical form."""
DEFAULT_MATCH = {"customer": ("email+kind",), "product": ("sku",), "product_category": ("code",)}


class Matcher:
    """Finds candidates of one account."""

    def __init__(self, connector: Connector, state: AccountState, hasher: Hasher, home_currency: str | None) -> None:
        self._connector = connector
        self._state = state
        self._hasher = hasher
        self._home_currency = home_currency

    async def customer(
        self, party: Matchable, methods: Sequence[str], facet: str | None, *, is_strict: bool = True
    ) -> Found | None:
        """The customer meant by a party, whole and active; None when there is none. Raises AmbiguousMatch.

        Customers of the facet come first; others count only where `is_strict` is False.
        """
        for method in methods:
            known = self._fitting(await self._confirmed("customer", self._known_customers(party, method)), facet, is_strict)
            found = self._one(known, method)
            found = found or self._one(await self._search_customer(party, method, facet, is_strict), method)
            if found:
                return found
        return None

    async def product(self, sku: str) -> Found | None:
        """The active product with this SKU; None when there is none. Raises AmbiguousMatch."""
        known = await self._confirmed("product", self._state.candidates("product", sku_key(sku, self._hasher)))
        if found := self._one([found for found, _ in known], f"SKU {sku}"):
            return found
        searched = [found for found in await self._connector.find("product", Match(sku=sku)) if found.active]
        return self._one(searched, f"SKU {sku}")

    def product_id(self, sku: str) -> str | None:
        """Id of the product from our own records alone; None when the vendor must be asked. Raises AmbiguousMatch."""
        ids = self._state.candidates("product", sku_key(sku, self._hasher))
        if len(ids) > 1:
            raise AmbiguousMatch(
                f"{len(ids)} active products have SKU {sku}", candidates=sorted(ids), hint="leave one of them active"
            )
        return next(iter(ids), None)

    async def by_number(self, number: str) -> str | None:
        """Id of the active customer with a debtor number; None when there is none. Raises AmbiguousMatch."""
        key = f"number:{self._hasher.hex(number.strip().encode(), 16)}"
        known = await self._confirmed("customer", self._state.candidates("customer", key))
        found = self._one([found for found, _ in known], f"number {number}")
        if found is None:
            searched = [found for found in await self._connector.find("customer", Match(number=number)) if found.active]
            found = self._one(searched, f"number {number}")
        return found.record.id if found else None

    async def entity(
        self,
        entity: str,
        document: canon.Customer | canon.Product | canon.ProductCategory,
        methods: Sequence[str],
        facet: str | None,
    ) -> Found | None:
        """The object of this account that a customer, product or category of another account means."""
        methods = methods or DEFAULT_MATCH[entity]
        if isinstance(document, canon.Customer):
            return await self.customer(document, methods, facet, is_strict=False)
        if isinstance(document, canon.Product) and document.sku:
            return await self.product(document.sku)
        keys = match_keys(document, self._hasher)
        known = await self._confirmed(entity, {i for key in keys for i in self._state.candidates(entity, key)})
        return self._one([found for found, _ in known], entity)

    # --- parts -------------------------------------------------------------------------------------------------------------

    def _known_customers(self, party: Matchable, method: str) -> set[str]:
        keys = match_keys(party, self._hasher)
        if method != "email+kind":
            return self._all(key for key in keys if key.startswith(f"{method}:"))
        everyone = self._all(key for key in keys if key.startswith("email:"))
        if party.kind is CustomerKind.UNKNOWN:
            return everyone
        same = self._all(key for key in keys if key.startswith("email+kind:"))
        if same:
            return same
        unknown = self._all(
            key.removesuffix(str(party.kind)) + CustomerKind.UNKNOWN for key in keys if key.startswith("email+kind:")
        )
        # An object of unknown kind is meant only if the e-mail address has no other holder.
        return unknown if unknown and everyone == unknown else set() if not unknown else everyone

    def _all(self, keys: Iterable[str]) -> set[str]:
        return {external_id for key in keys for external_id in self._state.candidates("customer", key)}

    async def _confirmed(self, entity: str, ids: set[str]) -> list[Candidate]:
        """The vendor's word on what our records say: gone and inactive ones fall out."""
        confirmed: list[Candidate] = []
        for external_id in sorted(ids):
            record = await self._connector.fetch(entity, external_id)
            if record is None or record.deleted:
                continue
            document = self._connector.to_canonical(record)
            if getattr(document, "active", True):
                confirmed.append((Found(record=record, number=getattr(document, "number", None)), document))
        return confirmed

    async def _search_customer(self, party: Matchable, method: str, facet: str | None, is_strict: bool) -> list[Found]:
        candidates: list[Found] = []
        for match in self._matches(party, method):
            candidates += await self._connector.find("customer", match)
        unique = {found.record.id: found for found in candidates if found.active}
        documents = {found.record.id: self._connector.to_canonical(found.record) for found in unique.values()}
        kinds = {
            external_id: document.kind for external_id, document in documents.items() if isinstance(document, canon.Customer)
        }
        fitting = self._fitting([(found, documents[found.record.id]) for found in unique.values()], facet, is_strict)
        if method != "email+kind" or party.kind is CustomerKind.UNKNOWN:
            return fitting
        same = [found for found in fitting if kinds[found.record.id] is party.kind]
        unknown = [found for found in fitting if kinds[found.record.id] is CustomerKind.UNKNOWN]
        return same or (unknown if len(unknown) == len(fitting) else fitting if unknown else [])

    @staticmethod
    def _matches(party: Matchable, method: str) -> list[Match]:
        if method.startswith("email") and isinstance(party.pii, canon.PartyPii):
            return [Match(email=point.value) for point in party.pii.emails]
        if method == "vat" and party.vat_number:
            return [Match(vat_number=party.vat_number)]
        number = party.number if isinstance(party, canon.Customer) else party.customer.code if party.customer else None
        if method == "number" and number:
            return [Match(number=number)]
        return []

    def _fitting(self, candidates: Sequence[Candidate], facet: str | None, is_strict: bool) -> list[Found]:
        """Where customers have one currency each: those of the facet's, or of the account's own where there is none."""
        facts, wanted = self._connector.manifest.writes.get("customer"), facet or self._home_currency
        everyone = [found for found, _ in candidates]
        if facts is None or facts.facet != "currency" or not wanted:
            return everyone
        own = [found for found, document in candidates if getattr(document, "currency", None) in (None, wanted)]
        return own if own or is_strict else everyone

    @staticmethod
    def _one(found: Sequence[Found], what: str) -> Found | None:
        if len(found) > 1:
            ids = sorted(candidate.record.id for candidate in found)
            raise AmbiguousMatch(
                f"{len(ids)} objects answer the match by {what}: {', '.join(ids)}",
                candidates=ids,
                hint="link the right one by hand, or make the others inactive",
            )
        return found[0] if found else None


def changed_paths(now: dict[str, str], before: dict[str, str]) -> set[str]:
    """Field paths whose hash differs, those that vanished included."""
    return {path for path in now.keys() | before.keys() if now.get(path) != before.get(path)}

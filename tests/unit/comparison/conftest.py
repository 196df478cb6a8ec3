"""The pair of the pair tests."""

from tests.unit.pair.conftest import buyer, make, pair

__all__ = ["buyer", "make", "pair"]

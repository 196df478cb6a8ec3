"""Broken builds: each takes one guard away. A simulation that does not fail on them would prove nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager

BROKEN: dict[str, Callable[[], AbstractContextManager[None]]] = {}

"""What can go wrong with the embedded parts, in words for the person at the keyboard."""

from bus.core.errors import FatalError


class EmbeddedError(FatalError):
    """The embedded Kafka or registry cannot start; the message says what to do."""


class DownloadError(EmbeddedError):
    """A locked artifact is not in the cache and cannot be had."""


class StartGivenUp(EmbeddedError):
    """Somebody asked for the end before the start had come to its own."""

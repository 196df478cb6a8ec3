"""Ways from page to page, each with a limit and with loop detection."""

from bus.core.errors import PageLoop

PAGES_MAX = 100_000


class PageTokens:
    """Remembers the tokens of one poll. A token that comes twice would never end."""

    def __init__(self, stream: str, pages_max: int = PAGES_MAX) -> None:
        self._stream = stream
        self._pages_max = pages_max
        self._met: set[str] = set()

    def follow(self, token: str) -> str:
        """The token, if it is new. Raises PageLoop."""
        if token in self._met:
            raise PageLoop(f"{self._stream}: a page token came twice after {len(self._met)} pages")
        if len(self._met) >= self._pages_max:
            raise PageLoop(f"{self._stream}: more than {self._pages_max} pages in one poll")
        self._met.add(token)
        return token


class LinkPages:
    """The vendor gives the next page's absolute URL; it must stay on the same host."""

    def __init__(self, stream: str, pages_max: int = PAGES_MAX) -> None:
        self._tokens = PageTokens(stream, pages_max)

    def next(self, link: str | None) -> str | None:
        """The next URL, None at the end. Raises PageLoop."""
        return self._tokens.follow(link) if link else None


class OffsetPages:
    """Pages by start position and size; a page shorter than asked is the last."""

    def __init__(self, stream: str, size: int, first: int = 1, pages_max: int = PAGES_MAX) -> None:
        self._tokens = PageTokens(stream, pages_max)
        self.size = size
        self.start = first

    def next(self, rows: int) -> int | None:
        """Start of the next page after one of `rows` rows, None at the end."""
        if rows < self.size:
            return None
        self.start += rows
        self._tokens.follow(str(self.start))
        return self.start


class TokenPages:
    """The vendor gives an opaque token."""

    def __init__(self, stream: str, pages_max: int = PAGES_MAX) -> None:
        self._tokens = PageTokens(stream, pages_max)

    def next(self, token: str | None) -> str | None:
        """The next token, None at the end. Raises PageLoop."""
        return self._tokens.follow(token) if token else None

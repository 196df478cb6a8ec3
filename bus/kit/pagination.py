"""Ways from page to page, each with a limit and with loop detection.

A paginator knows nothing of HTTP: it is told what a page said and says where the next one is.
"""

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
    """The vendor gives the next page's absolute URL, to be followed exactly as given; the client refuses other hosts."""

    def __init__(self, stream: str, pages_max: int = PAGES_MAX) -> None:
        self._tokens = PageTokens(stream, pages_max)

    def next(self, link: str | None) -> str | None:
        """The next URL, None at the end. Raises PageLoop."""
        return self._tokens.follow(link) if link else None


class TokenPages:
    """The vendor gives an opaque token."""

    def __init__(self, stream: str, pages_max: int = PAGES_MAX) -> None:
        self._tokens = PageTokens(stream, pages_max)

    def next(self, token: str | None) -> str | None:
        """The next token, None at the end. Raises PageLoop."""
        return self._tokens.follow(token) if token else None


class OffsetPages:
    """Pages by start position and size.

    The end is the vendor's `total` where it gives one, else a page shorter than asked: that is right only where `size` is what
    the vendor really serves, so a size above the vendor's maximum would lose everything after the first page.
    """

    def __init__(self, stream: str, size: int, first: int = 1, pages_max: int = PAGES_MAX) -> None:
        self._stream = stream
        self._pages = PageTokens(stream, pages_max)
        self._begins = PageTokens(stream, pages_max)
        self._first = first
        self.size = size
        self.start = first

    def next(self, rows: int, *, begins_with: str | None = None, total: int | None = None) -> int | None:
        """Start of the next page after one of `rows` rows, None at the end.

        `begins_with`, the key of the page's first row, shows a vendor that ignores the start position. Raises PageLoop.
        """
        if rows > self.size:
            raise PageLoop(f"{self._stream}: a page of {rows} rows where {self.size} were asked: the page size is not heeded")
        if begins_with is not None:
            self._begins.follow(begins_with)
        self.start += rows
        if rows == 0 or (rows < self.size if total is None else self.start - self._first >= total):
            return None
        self._pages.follow(str(self.start))
        return self.start

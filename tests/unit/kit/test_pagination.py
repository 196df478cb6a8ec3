"""From page to page, to a certain end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.core.errors import PageLoop
from bus.kit.pagination import OffsetPages


@given(rows=st.integers(0, 60), size=st.integers(1, 7), tells_total=st.booleans())
def test_every_row_is_read_once(rows: int, size: int, tells_total: bool) -> None:
    everything = [str(row) for row in range(rows)]
    pages, read = OffsetPages("items", size=size), []
    start: int | None = pages.start
    while start is not None:
        page = everything[start - 1 : start - 1 + size]
        read += page
        start = pages.next(len(page), begins_with=page[0] if page else None, total=rows if tells_total else None)
    assert read == everything


def test_a_total_goes_on_over_short_pages() -> None:
    pages = OffsetPages("items", size=1000, first=0)
    assert pages.next(60, total=130) == 60
    assert pages.next(60, total=130) == 120
    assert pages.next(10, total=130) is None


def test_a_vendor_that_ignores_the_start_is_a_loop() -> None:
    pages = OffsetPages("items", size=2)
    pages.next(2, begins_with="a")
    with pytest.raises(PageLoop, match="items"):
        pages.next(2, begins_with="a")


def test_a_vendor_that_ignores_the_size_is_refused() -> None:
    with pytest.raises(PageLoop, match="page size"):
        OffsetPages("items", size=2).next(3)

"""What a scenario found: figures, some of which have a bound. A scenario holds when every bound does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One number, and what it may be at most (None: it is told, not judged)."""

    name: str
    value: float | int | str
    most: float | int | None = None
    least: float | int | None = None

    @property
    def holds(self) -> bool:
        """Whether it is within its bounds."""
        if isinstance(self.value, str):
            return True
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    def __str__(self) -> str:
        value = f"{self.value:.1f}" if isinstance(self.value, float) else str(self.value)
        return f"{self.name} {value}" + ("" if self.holds else f" (must be {self._bound()})")

    def _bound(self) -> str:
        bounds = [
            f"at most {self.most}" if self.most is not None else "",
            f"at least {self.least}" if self.least is not None else "",
        ]
        return " and ".join(filter(None, bounds))


@dataclass
class Figures:
    """The figures of one run of one scenario, in the order they were found."""

    done: str = ""
    """What was done, with its counts."""
    found: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was lost, doubled or wrong, one by one: for whoever looks for the cause."""
    say: Callable[[str], None] = lambda _: None
    """Told each bounded figure as it is found."""

    def tell(self, name: str, value: float | int | str) -> None:
        """A figure without a bound."""
        self.found.append(Figure(name, value))

    def zero(self, name: str, wrong: Any) -> None:
        """A number that must be 0, or a collection that must be empty: what is in it is noted."""
        if isinstance(wrong, int):
            self.found.append(Figure(name, wrong, most=0))
            return
        items = list(wrong)
        self.found.append(Figure(name, len(items), most=0))
        self.notes += [f"{name}: {item}" for item in items[:20]]

    def most(self, name: str, value: float | int, most: float | int) -> None:
        """A number with an upper bound."""
        self.found.append(Figure(name, value, most=most))
        self.say(f"      {self.found[-1]}")

    def least(self, name: str, value: float | int, least: float | int) -> None:
        """A number with a lower bound: mostly that what was to be done was done."""
        self.found.append(Figure(name, value, least=least))

    @property
    def holds(self) -> bool:
        """Whether there is a bounded figure, and every one is within its bounds."""
        bounded = [figure for figure in self.found if figure.most is not None or figure.least is not None]
        return bool(bounded) and all(figure.holds for figure in bounded)

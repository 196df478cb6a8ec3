"""What is wrong with a configuration: file, line, key, what, fix."""

import difflib
from collections.abc import Iterable, Sequence

import msgspec

from bus.core.errors import SettingsError


class Problem(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One thing an operator must mend."""

    file: str
    line: int
    key: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.what}. {self.fix}"


class ConfigurationRefused(SettingsError):
    """A configuration with problems; nothing of it was applied. Exit 78."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def closest(word: str, known: Iterable[str]) -> str:
    """A fix in words: the closest known spelling, else all of them (at most 12)."""
    options = sorted(set(known))
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    if not options:
        return "Remove it."
    shown = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
    return f"Write one of: {shown}"

"""`python -m schemas.history freeze`."""

import sys

from schemas.history import HistoryRefused, freeze


def main(arguments: list[str]) -> int:
    """Freezes what changed; says what. Exit 0, 1 when a change is refused, 2 for wrong arguments."""
    if arguments != ["freeze"]:
        sys.stderr.write("usage: python -m schemas.history freeze\n")
        return 2
    try:
        added = freeze()
    except HistoryRefused as error:
        sys.stderr.write(f"refused:\n{error}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in added) or "nothing changed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

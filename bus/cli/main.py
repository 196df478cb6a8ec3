"""The `bus` command, as the wheel installs it. What it needs is imported late: Ctrl-C on the way there ends it without a word."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Entry point of the wheel."""
    try:
        from bus.cli.group import bus

        bus(prog_name="bus")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()

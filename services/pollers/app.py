"""Composition root of the pollers."""

from bus.runtime.service import Service, run
from bus.runtime.slotwork import serve
from services.pollers.slot import PollerSlot


async def start(service: Service) -> None:
    """Serves the slots this process owns until it is told to stop."""
    await serve(service, PollerSlot)


def main() -> None:
    """Entry of `python -m services.pollers`."""
    run("pollers", start)

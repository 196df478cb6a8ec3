"""Composition root of the sinks."""

from bus.runtime.service import Service, run
from bus.runtime.slotwork import serve
from services.sinks.slot import SinkSlot


async def start(service: Service) -> None:
    """Serves the slots this process owns until it is told to stop."""
    await serve(service, SinkSlot)


def main() -> None:
    """Entry of `python -m services.sinks`."""
    run("sinks", start)

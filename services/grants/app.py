"""Composition root of the grants service."""

from bus.runtime.service import Service, run
from bus.runtime.slotwork import serve
from services.grants.slot import GrantSlot, Rescue


async def start(service: Service) -> None:
    """Serves the slots this process owns until it is told to stop."""
    rescue: Rescue = {}
    await serve(service, lambda environment, slot: GrantSlot(environment, slot, rescue))


def main() -> None:
    """Entry of `python -m services.grants`."""
    run("grants", start)

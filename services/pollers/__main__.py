"""`python -m services.pollers`."""

from services.pollers.app import main

main()

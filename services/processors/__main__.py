"""`python -m services.processors`."""

from services.processors.app import main

main()

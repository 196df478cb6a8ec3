"""`python -m services.sinks`."""

from services.sinks.app import main

main()

"""`python -m services.grants`."""

from services.grants.app import main

main()

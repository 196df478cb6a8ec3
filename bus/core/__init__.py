"""Pure records, errors, identity, money, settings. Imports no client library."""

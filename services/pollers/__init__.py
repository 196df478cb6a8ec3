"""Pollers: read the accounts, publish canonical events, know what they have seen."""

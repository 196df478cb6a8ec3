"""Grants: the only service that refreshes OAuth tokens (law 12)."""

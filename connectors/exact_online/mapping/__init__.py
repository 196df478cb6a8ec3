"""Exact Online ↔ canonical. Pure: no I/O, no clock."""

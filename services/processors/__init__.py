"""Canonical event × matching flows → command. Pure mapping in `handler` and below; Faust in `engine` only."""

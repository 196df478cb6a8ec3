"""Sinks: carry out the commands of each account, each write under an intent."""

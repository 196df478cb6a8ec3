"""The fault campaign: real processes on a real broker, hurt from a seed, judged by what the vendors and the topics hold.

`python -m tests.faults` runs it; `make faults` and `make faults-long` also write docs/faults.md.
"""

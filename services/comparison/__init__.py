"""Compares what stands at both ends of a flow: by what the bus knows (`difference`), and live (`reconciling`).

It writes to no account. What it asks for, it asks for on `bus.requests`, like any operator.
"""

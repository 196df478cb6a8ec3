"""Faust, and everything the bus must hold against it. Knows records and offsets, nothing of flows.

What was learnt by trying it, each with a regression test:
- a handler's exception acknowledges and loses the event: the handler is a plain function, its errors never leave the agent;
- one unacknowledged event does not hold the commit back: `SafeConsumer` commits the lowest delivered and not acknowledged one;
- on transactional input the committed offset lags behind markers: the same bookkeeping, by delivered offsets and not by numbers;
- acknowledgements of an older generation move offsets: they are ignored;
- revoked partitions are given away uncommitted: `SafeConsumer` commits first;
- no setting for read_committed and none for idempotence: both by subclass;
- a rejected delivery is a log line: every delivery is awaited, its failure ends the process without acknowledging;
- the detector of stuck streams only logs: `Watch` looks at committed offsets and fetches itself.
"""

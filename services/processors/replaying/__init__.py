"""The one replay job (law 18): canonical topic → commands again, at a capped rate, beside live traffic.

It serves a new flow, a lost offset, `bus replay` and repair. `job` is pure; `running` carries one job out; `worker` owns a slot;
`events` reads the topics.
"""

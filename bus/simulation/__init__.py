"""What a simulator author touches: clock, tokens, limits, faults, call log, the server. Shares nothing with connectors."""

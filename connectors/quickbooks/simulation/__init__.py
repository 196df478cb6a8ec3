"""The simulated company: state, query language, rules, totals. Shares no code with the connector."""

"""The simulated company: state, query language, rules, totals. Written from the vendor's documentation alone."""

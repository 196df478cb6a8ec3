"""The four services, the node that runs them together, the demonstration."""

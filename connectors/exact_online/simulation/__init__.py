"""The parts of the Exact Online simulator: wire forms, OData queries, the division's state and its business rules."""

"""`bus demo`: simulators, the example configuration, all services, and a verdict from the simulators' own books."""

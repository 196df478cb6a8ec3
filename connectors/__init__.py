"""One folder per system; nobody imports a connector by name, the registry loads it."""

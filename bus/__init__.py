"""The shared part of the integration bus; knows no vendor by name."""

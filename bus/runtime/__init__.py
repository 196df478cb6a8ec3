"""Kafka, Avro and registry, state, grants, privacy, logs, metrics, health, supervisor. Never vendor HTTP."""

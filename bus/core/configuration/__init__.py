"""The configuration an operator writes: connections, flows and tables, with the place of every key."""

from bus.core.configuration.documents import Configuration, Connection, Document, Flow, SetRule, Table
from bus.core.configuration.parsing import Loaded, load, parse
from bus.core.configuration.problems import ConfigurationRefused, Problem

__all__ = [
    "Configuration",
    "ConfigurationRefused",
    "Connection",
    "Document",
    "Flow",
    "Loaded",
    "Problem",
    "SetRule",
    "Table",
    "load",
    "parse",
]

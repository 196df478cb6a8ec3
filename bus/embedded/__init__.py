"""Real Apache Kafka (KRaft) and Apicurio Registry on this machine, from a committed lock, on the JRE of a Python package."""

from bus.embedded.cluster import Cluster
from bus.embedded.problems import DownloadError, EmbeddedError

__all__ = ["Cluster", "DownloadError", "EmbeddedError"]

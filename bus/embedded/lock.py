"""Makes the lock of the embedded parts (`make jars-lock`): the only place that resolves Maven dependencies.

The rows name no host. The first row of a part is the part itself. slf4j-simple is added because Kafka brings no logging backend
of its own, and without one it ends without a word when it cannot start.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from jgo.maven import MavenContext

from bus.embedded.artifacts import LOCK, Artifact, sha256_of
from bus.embedded.repository import repository_base

KAFKA = ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36")
"""4.4.0 cannot be resolved: its kafka-tools-api was not published."""
REGISTRY = ("io.apicurio", "apicurio-registry-app", "3.3.3", "all", "tar.gz")
SCOPES = ("compile", "runtime")


def main() -> None:
    """Resolves, downloads and writes the lock anew."""
    cache = Path(tempfile.mkdtemp())
    try:
        context = MavenContext(repo_cache=cache, remote_repos={"central": repository_base().rstrip("/")}, timeout=60)
        inputs, transitive = context.resolver.resolve([context.create_dependency(name) for name in KAFKA])
        kafka = [_row(one.artifact) for one in [*inputs, *(other for other in transitive if other.scope in SCOPES)]]
        group, artifact, version, classifier, kind = REGISTRY
        registry = _row(context.project(group, artifact).at_version(version).artifact(classifier, kind))
        lock = {"kafka": [kafka[0], *sorted(kafka[1:])], "registry": [registry]}
        rows = {part: [row._asdict() for row in found] for part, found in lock.items()}
        LOCK.write_text(json.dumps(rows, indent=1) + "\n")
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    sys.stdout.write(f"{LOCK.name}: {len(kafka)} artifacts of Kafka, 1 of the registry\n")


def _row(artifact: Any) -> Artifact:
    path = artifact.resolve()
    return Artifact(
        group=artifact.groupId,
        artifact=artifact.artifactId,
        version=artifact.version,
        classifier=artifact.classifier or "",
        type=artifact.packaging,
        size=path.stat().st_size,
        sha256=sha256_of(path),
    )


if __name__ == "__main__":
    main()

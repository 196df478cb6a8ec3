"""The JSON Schema of manifests, for editors and for reviewers of a new connector."""

import json

from bus.kit.manifest import Manifest


def manifest_json_schema() -> str:
    """The schema as text, stable, as checked in at `schemas/manifest.schema.json`."""
    return json.dumps(Manifest.model_json_schema(), indent=1, sort_keys=True) + "\n"

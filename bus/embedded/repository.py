"""Which Maven repository artifacts come from.

No host is written down here. In this order: the variable BUS_MAVEN_BASE; the mirror of `central` in the user's Maven settings;
the default of jgo, the resolver that made the lock. What a repository answers is never trusted, only compared with the lock.
"""

import os
from pathlib import Path
from xml.etree import ElementTree

from jgo.constants import MAVEN_CENTRAL_URL

BASE_VARIABLE = "BUS_MAVEN_BASE"
MIRRORED = ("*", "central", "external:*")
"""Values of `mirrorOf` that cover the central repository (Maven's guide to mirror settings)."""


def repository_base() -> str:
    """Base URL, ending in a slash."""
    found = os.environ.get(BASE_VARIABLE) or _mirror(Path.home() / ".m2" / "settings.xml") or MAVEN_CENTRAL_URL
    return found.rstrip("/") + "/"


def _mirror(settings: Path) -> str | None:
    """The first mirror of `central`; None where there is none, or the file cannot be read: Maven's own user will notice that."""
    try:
        root = ElementTree.parse(settings).getroot()  # noqa: S314 - the user's own file
    except (OSError, ElementTree.ParseError):
        return None
    for mirror in root.iterfind("{*}mirrors/{*}mirror"):
        covered = (mirror.findtext("{*}mirrorOf") or "").replace(" ", "").split(",")
        if any(name in MIRRORED for name in covered) and "!central" not in covered:
            return (mirror.findtext("{*}url") or "").strip() or None
    return None

"""The flows of the example between the two accounts that figures are measured on."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from bus.core.clock import SystemClock
from bus.core.configuration import load
from bus.runtime.codec import Codec
from bus.runtime.publication import apply
from bus.runtime.settings import BusSettings
from bus.runtime.validation import validate
from bus.runtime.validation.installed import installed_systems, secret_check
from services.demonstration.stage import read_documents, turned, write_configuration, write_secrets

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "quickbooks-exact"
SOURCE, TARGET = "qbo-nl", "exact-nl"


async def applied(
    settings: BusSettings,
    codec: Codec,
    infos: Mapping[str, Mapping[str, Any]],
    *,
    start: date,
    poll_s: int,
    is_filtered: bool = True,
) -> None:
    """Applies the example, turned to these simulators; without its `when` filters if not `is_filtered`."""
    documents = [{key: value for key, value in item.items() if is_filtered or key != "when"} for item in read_documents(FOLDER)]
    secrets_dir = settings.data_dir / "secrets"
    write_secrets(secrets_dir, documents, infos)
    path = write_configuration(settings.data_dir / "example", turned(documents, infos, start, poll_s, real_limits=False))
    checked = secret_check(settings.model_copy(update={"secrets_dir": secrets_dir}))
    report = validate(load(path), installed_systems(), checked)
    if report.problems:
        raise RuntimeError("\n".join(map(str, report.problems)))
    await apply(settings, codec, report.configuration, SystemClock())

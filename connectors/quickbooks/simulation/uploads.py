"""Attachments that come as multipart/form-data: pairs of a metadata part and a content part.

https://developer.intuit.com/app/developer/qbo/docs/workflows/attach-images-and-notes
"""

from email.message import EmailMessage, MIMEPart
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import PurePath
from typing import Any

import msgspec

from connectors.quickbooks.simulation import writing
from connectors.quickbooks.simulation.company import Company, Row
from connectors.quickbooks.simulation.refusals import Refused, business, missing, unreadable

TYPES = frozenset(
    ("ai", "csv", "doc", "docx", "eps", "gif", "jpeg", "jpg", "ods", "pdf", "png", "rtf", "tif", "txt", "xls", "xlsx", "xml")
)
METADATA, CONTENT = "file_metadata_", "file_content_"


def store(company: Company, content_type: str, body: bytes) -> list[Row | Refused]:
    """Each file as an attachment, or why not. Raises Refused for a body that is no such form."""
    parts = _parts(content_type, body)
    contents = sorted(name for name in parts if name.startswith(CONTENT))
    if not contents:
        raise missing(f"{CONTENT}01")
    found: list[Row | Refused] = []
    for name in contents:
        try:
            found.append(_store(company, parts.get(METADATA + name.removeprefix(CONTENT)), parts[name]))
        except Refused as refused:
            found.append(refused)
    return found


def _parts(content_type: str, body: bytes) -> dict[str, MIMEPart]:
    message = BytesParser(EmailMessage, policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    if not message.is_multipart():
        raise unreadable("The body is no multipart/form-data.")
    return {str(part.get_param("name", header="content-disposition")): part for part in message.iter_parts()}


def _store(company: Company, metadata: MIMEPart | None, content: MIMEPart) -> Row:
    payload = content.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    row: dict[str, Any] = {}
    if metadata is not None:
        coded = metadata.get_payload(decode=True)
        try:
            row = msgspec.json.decode(coded if isinstance(coded, bytes) else b"", type=dict[str, Any])
        except msgspec.DecodeError:
            raise unreadable("The metadata part is no JSON.") from None
    row.setdefault("FileName", content.get_filename() or "")
    if PurePath(row["FileName"]).suffix.lstrip(".").lower() not in TYPES:
        raise business(f"Files of this kind cannot be attached: {row['FileName']}")
    made = writing.create(company, "Attachable", {**row, "ContentType": row.get("ContentType") or content.get_content_type()})
    made |= {"Size": len(data), "FileAccessUri": f"/v3/company/files/{made['Id']}", "TempDownloadUri": f"/files/{made['Id']}"}
    company.contents[made["Id"]] = data
    return made

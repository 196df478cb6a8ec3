"""From a request body to values: unknown properties refused, read-only ones without effect, foreign keys dropped in silence."""

from dataclasses import dataclass, field
from typing import Any

from connectors.exact_online.simulation.fields import Field, from_payload
from connectors.exact_online.simulation.refusals import bad_request, invalid, mandatory
from connectors.exact_online.simulation.sets import EntitySet
from connectors.exact_online.simulation.state import Division


@dataclass
class Payload:
    """What a body says: values by property, children by property."""

    values: dict[str, Any] = field(default_factory=dict)
    children: dict[str, list[Any]] = field(default_factory=dict)


def read_payload(division: Division, entity_set: EntitySet, body: Any, *, creating: bool) -> Payload:
    """Reads a flat object. Raises Refused: 400 for its form, 500 for a field that cannot be written so."""
    if not isinstance(body, dict):
        raise bad_request("Error processing request stream. The request should be a valid top-level resource object.")
    payload = Payload()
    for name, value in body.items():
        if name not in entity_set.fields:
            model = f"Exact.Web.Api.Models.{entity_set.model}"
            raise bad_request(
                f"Error processing request stream. The property name '{name}' specified for type '{model}' is not valid."
            )
        known = entity_set.fields[name]
        if known.kind == "children":
            payload.children[name] = _children(known, value, creating=creating)
        elif known.create if creating else known.update:
            payload.values[name] = _value(division, known, value)
        elif not creating and known.create:
            raise invalid(name)
    for name, known in entity_set.fields.items():
        is_due = known.required and known.kind != "children" and (creating or name in payload.values)
        if is_due and payload.values.get(name) is None:
            raise mandatory(name)
    return payload


def _children(known: Field, value: Any, *, creating: bool) -> list[Any]:
    if not creating:
        raise bad_request(
            "Error processing request stream. Binding to new entities during an update is not supported for property "
            f"'{known.name}'."
        )
    if not known.create or not isinstance(value, list):
        raise bad_request(f"Error processing request stream. The property '{known.name}' must be a collection of new entities.")
    return value


def _value(division: Division, known: Field, value: Any) -> Any:
    read = from_payload(known, value)
    if read is None:
        return None
    if known.kind == "text":
        return _text(known, read)
    if known.kind == "guid" and (known.to is None or division.get(known.to, read) is None):
        return None
    return read


def _text(known: Field, text: str) -> str | None:
    if known.left or known.right:
        text = text.strip()
    if known.cut:
        text = text[: known.cut].rstrip()
    if known.most and len(text) > known.most:
        raise invalid(known.name)
    return text or None

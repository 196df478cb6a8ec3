"""What `bus apply` adds to flows from the manifests, so that processors need nothing but events and configuration."""

from bus.core.configuration import Configuration, Flow
from bus.kit.manifest import Manifest
from bus.runtime.validation.settings import level_of
from bus.runtime.validation.systems import Systems

PARENT = "PARENT"


def completed(configuration: Configuration, systems: Systems) -> Configuration:
    """The same configuration with levels, mandatory values, reference lengths and kinds without a place filled in."""
    flows = {}
    for name, flow in configuration.flows.items():
        target = configuration.connections[flow.to.connection]
        flows[name] = _completed(flow, systems[target.system].manifest)
    return Configuration(connections=configuration.connections, flows=flows, tables=configuration.tables)


def _completed(flow: Flow, manifest: Manifest) -> Flow:
    writes = manifest.writes[flow.to.entity]
    rules = {
        name: rule.model_copy(update={"level": level_of(name, writes), "required": name in writes.required_values})
        for name, rule in flow.set.items()
    }
    changes: dict[str, object] = {"set": rules}
    if flow.reference is not None:
        limit = writes.reference_fields[flow.reference.to]
        changes["reference"] = flow.reference.model_copy(update={"length_max": limit})
    if flow.to.entity == "product" and "variants" not in manifest.capabilities and PARENT not in flow.from_.types:
        without = tuple(dict.fromkeys([*flow.from_.without, PARENT]))
        changes["from_"] = flow.from_.model_copy(update={"without": without})
    return flow.model_copy(update=changes)

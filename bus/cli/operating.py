"""`bus poll`, `bus topics`, `bus schemas`, `bus connectors`."""

import sys
from typing import Any

import click

from bus.cli.session import as_json_option, connected, emit, table, with_registry


@click.command()
@click.argument("connection")
@click.option("--stream", help="Only this stream (`bus connectors show` lists them).")
@click.option("--now", is_flag=True, required=True, help="Poll at once, paused streams included.")
def poll(connection: str, stream: str | None, now: bool) -> None:
    """Ask the poller of CONNECTION to poll at once."""

    async def ask(settings: Any, codec: Any) -> None:
        from bus.runtime.requests import poll_now

        await poll_now(settings, codec, connection, stream)

    connected(ask)
    click.echo(f"{connection}: {stream or 'all streams'} will be polled at once")


@click.command("topics")
@as_json_option
def topics_command(as_json: bool) -> None:
    """List the bus's topics as they are."""

    async def look(settings: Any, codec: Any) -> list[dict[str, Any]]:
        import asyncio

        from confluent_kafka import KafkaException

        from bus.runtime import kafka

        def ask() -> Any:
            try:
                return kafka.admin(settings).list_topics(timeout=kafka.REQUEST_TIMEOUT_S).topics
            except KafkaException as error:
                raise kafka.translate(error, "listing topics") from error

        found = await asyncio.to_thread(ask)
        return [
            {"name": name, "partitions": len(topic.partitions)}
            for name, topic in sorted(found.items())
            if name.startswith("bus.")
        ]

    rows = connected(look)
    if as_json:
        emit({"topics": rows})
        return
    table(f"{len(rows)} topics", ["topic", "partitions"], [[row["name"], row["partitions"]] for row in rows], right=(1,))


@click.group()
def schemas() -> None:
    """The Avro schemas and the registry."""


@schemas.command()
@as_json_option
def register(as_json: bool) -> None:
    """Register all schemas, with compatibility FULL_TRANSITIVE, and create the topics that do not depend on a connection."""
    from bus.core.topics import fixed_topics
    from bus.runtime.provisioning import ensure_topics

    async def run(settings: Any, registry: Any) -> dict[str, int]:
        ids: dict[str, int] = await registry.register_all()
        await ensure_topics(settings, fixed_topics(settings.slots, settings.partitions))
        return ids

    ids = with_registry(run)
    if as_json:
        emit({"ids": ids})
        return
    table(
        f"{len(ids)} schemas registered", ["subject", "id"], [[name, number] for name, number in sorted(ids.items())], right=(1,)
    )


@schemas.command("check")
def check_schemas() -> None:
    """Say what the registry or the linter would refuse. Changes nothing."""

    async def run(_settings: Any, registry: Any) -> list[str]:
        found: list[str] = await registry.check_all()
        return found

    problems = with_registry(run)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)
    click.echo("all schemas are compatible")


@click.group("connectors")
def connectors_group() -> None:
    """The systems the bus can speak to, from their manifests."""


@connectors_group.command("list")
@as_json_option
def list_connectors(as_json: bool) -> None:
    """List them."""
    from bus.kit.registry import discover, manifest_of

    manifests = [manifest_of(system) for system in discover()]
    if as_json:
        emit(
            {
                "connectors": [
                    {"id": m.id, "name": m.name, "reads": sorted(m.reads), "writes": sorted(m.writes)} for m in manifests
                ]
            }
        )
        return
    rows = [[m.id, m.name, ", ".join(sorted(m.reads)), ", ".join(sorted(m.writes)), ", ".join(m.capabilities)] for m in manifests]
    table(f"{len(rows)} connectors", ["id", "system", "reads", "writes", "capabilities"], rows)


@connectors_group.command("show")
@click.argument("system")
@as_json_option
def show_connector(system: str, as_json: bool) -> None:
    """Show the facts of one, and what it cannot do."""
    from bus.kit.registry import manifest_of

    manifest = manifest_of(system)
    if as_json:
        emit(manifest.model_dump(mode="json"))
        return
    rows = [[s.name, ", ".join(s.entities), s.kind, s.poll_s, s.deletes] for s in manifest.streams]
    table(f"{manifest.name}: streams", ["stream", "entities", "kind", "poll s", "deletes"], rows)
    rows = [
        [
            entity,
            ", ".join(w.actions),
            ", ".join(f"{step.name} ({step.idempotency})" for step in w.steps),
            ", ".join(w.header_values + w.line_values),
        ]
        for entity, w in sorted(manifest.writes.items())
    ]
    table(f"{manifest.name}: writes", ["entity", "actions", "steps", "values a flow may set"], rows)
    table(
        f"{manifest.name}: limits",
        ["limit", "calls", "per s"],
        [[x.name, x.calls, x.per_s] for x in manifest.limits],
        right=(1, 2),
    )
    table(f"{manifest.name}: cannot", ["what", "why"], [[name, why] for name, why in sorted(manifest.cannot.items())])


@connectors_group.command("check")
@click.argument("connection")
@as_json_option
def check_connection(connection: str, as_json: bool) -> None:
    """Ask the vendor who the account of CONNECTION is, and whether it can be served."""

    async def ask(settings: Any, codec: Any) -> Any:
        from bus.runtime.asking import check

        return await check(settings, codec, connection, lambda text: click.echo(text, err=True))

    account = connected(ask)
    if as_json:
        import msgspec

        emit(msgspec.to_builtins(account))
        return
    click.echo(f"{connection}: {account.name} ({account.vendor_id}), {account.country or '?'}, {account.currency or '?'}")
    for warning in account.warnings:
        click.echo(f"warning: {warning}", err=True)


commands = [poll, topics_command, schemas, connectors_group]

"""`bus link`: a person's word on which two objects are one."""

import sys
from typing import TYPE_CHECKING

import click

from bus.cli.session import ANSWER_WAIT_S, SOURCE_KEY, connected, no_wait_option, unanswered

if TYPE_CHECKING:
    from bus.runtime.codec import Codec
    from bus.runtime.settings import BusSettings
    from schemas.system import ObjectRef


@click.command("link")
@click.argument("source_key", type=SOURCE_KEY)
@click.argument("target_key", type=SOURCE_KEY, required=False)
@click.option("--nothing-made", is_flag=True, help="Instead of TARGET_KEY: the unclear write made nothing there; make it again.")
@click.option("--connection", help="With --nothing-made: the target account.")
@click.option("--entity", help="With --nothing-made: what would have been made there.")
@click.option("--facet", help="Which of several objects at the target is meant: the currency of a customer.")
@no_wait_option
def link_command(
    source_key: str,
    target_key: str | None,
    nothing_made: bool,
    connection: str | None,
    entity: str | None,
    facet: str | None,
    no_wait: bool,
) -> None:
    """Say that SOURCE_KEY and TARGET_KEY are the same thing: what waits for that, or died of it, is tried again.

    Both are CONNECTION|ENTITY|ID, in quotes. Look at the target first: what is linked is taken for what would have been made.
    """
    source = _object(source_key)
    if nothing_made:
        if target_key is not None or connection is None or entity is None:
            raise click.UsageError("--nothing-made goes with --connection and --entity, and without TARGET_KEY")
        _require_entity(entity)
    elif target_key is None or connection is not None or entity is not None:
        raise click.UsageError("give TARGET_KEY, or --nothing-made with --connection and --entity")

    async def work(settings: "BusSettings", codec: "Codec") -> str:
        from bus.runtime import linking

        wait_s = None if no_wait else ANSWER_WAIT_S
        if target_key is not None:
            return await linking.link(settings, codec, source, _object(target_key), facet=facet, wait_s=wait_s)
        return await linking.nothing_made(
            settings, codec, source, connection=connection or "", entity=entity or "", facet=facet, wait_s=wait_s
        )

    what = f"{source_key} and {target_key}" if target_key else f"the write of {source_key} to {connection}"
    told = {
        "already": f"{what} are linked already" if target_key else f"{what} is not open: nothing is unclear",
        "asked": f"{what} will be linked" if target_key else f"{what} will be made again",
        "done": f"{what} are linked; what waited for it is tried again" if target_key else f"{what} is made again",
    }
    answer = connected(work)
    if answer in told:
        click.echo(told[answer])
        return
    click.echo(unanswered(what, "sinks"), err=True)
    sys.exit(1)


def _object(key: str) -> "ObjectRef":
    from bus.core.topics import split_key
    from schemas.system import ObjectRef

    connection, entity, object_id = split_key(key)
    return ObjectRef(connection=connection, entity=entity, id=object_id)


def _require_entity(entity: str) -> None:
    from bus.core.topics import ENTITIES

    if entity not in ENTITIES:
        raise click.UsageError(f"--entity {entity!r} is none: there are {', '.join(ENTITIES)}")


commands = [link_command]

"""Makes topics in their shapes. Existing ones are left as they are."""

import asyncio
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from bus.core.topics import SUBJECT_KEYS, TopicShape
from bus.runtime import kafka
from bus.runtime.settings import BusSettings

DAY_MS = 86_400_000
COMPACTION_LAG_MS = 7 * DAY_MS
"""Within which a replaced or erased value is gone from a compacted topic."""
KEY_COMPACTION_LAG_MS = 3_600_000
"""Within which a deleted subject key is gone."""
CREATE_TIMEOUT_S = 30.0


async def ensure_topics(settings: BusSettings, shapes: Sequence[TopicShape]) -> list[str]:
    """Creates what is missing and returns the names of what was created.

    Raises NetworkFailure or Unavailable when Kafka is away, SettingsError when it refuses.
    """
    return await asyncio.to_thread(_ensure, settings, shapes) if shapes else []


def _ensure(settings: BusSettings, shapes: Sequence[TopicShape]) -> list[str]:
    admin = kafka.admin(settings)
    wanted = [_new_topic(shape, settings.replication_factor) for shape in shapes]
    try:
        answers = admin.create_topics(wanted, operation_timeout=CREATE_TIMEOUT_S, request_timeout=CREATE_TIMEOUT_S)
    except KafkaException as error:
        raise kafka.translate(error, "creating topics") from error
    created = []
    for name, answer in answers.items():
        try:
            answer.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise kafka.translate(error, f"creating {name}") from error
        else:
            created.append(name)
    return created


def _new_topic(shape: TopicShape, replication: int) -> NewTopic:
    config = {
        "cleanup.policy": shape.cleanup,
        "max.message.bytes": str(shape.max_message_bytes),
        "min.insync.replicas": str(max(1, replication - 1)),  # of three copies two hold a record before it counts as written
    }
    if shape.cleanup == "compact":
        lag = KEY_COMPACTION_LAG_MS if shape.name == SUBJECT_KEYS else COMPACTION_LAG_MS
        config["max.compaction.lag.ms"] = str(lag)
    elif shape.retention_days is not None:
        config["retention.ms"] = str(shape.retention_days * DAY_MS)
    return NewTopic(shape.name, num_partitions=shape.partitions, replication_factor=replication, config=config)

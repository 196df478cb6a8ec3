"""Builds the Faust application: every setting that keeps it safe, and one agent over all canonical topics."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import faust

from bus.runtime import kafka
from bus.runtime.publisher import Outgoing
from bus.runtime.settings import BusSettings
from services.processors.engine.pipeline import Pipeline, Work
from services.processors.engine.transport import SafeConsumer, SafeTransport
from services.processors.engine.watch import Progress

GROUP = "bus-processors"
RECORD_BYTES_MAX = 8 * 1024 * 1024
COMMIT_INTERVAL_S = 1.0
SESSION_S = 8.0
"""How long a killed process keeps its partitions."""


class Engine:
    """One Faust application inside the caller's event loop."""

    def __init__(self, app: Any, pipeline: Pipeline) -> None:
        self.app = app
        self.pipeline = pipeline

    @property
    def consumer(self) -> SafeConsumer:
        """The consumer; it exists once the application has started."""
        consumer = self.app.consumer
        assert isinstance(consumer, SafeConsumer)
        return consumer

    @property
    def client_id(self) -> str:
        """The name under which the group knows this process."""
        return str(self.app.conf.broker_client_id)

    def held(self) -> set[tuple[str, int]]:
        """The partitions this process holds, as far as it knows."""
        return {(place.topic, place.partition) for place in self.consumer.assignment()} if self.app.started else set()

    async def start(self) -> None:
        """Joins the group. Partitions may be taken before this returns."""
        await self.app.start()
        self.consumer.before_revoke = self.pipeline.drain

    def progress(self) -> Progress:
        """Where the consumer stands, for the watch."""
        consumer = self.consumer
        return Progress(committed=sum(consumer.committed().values()), open=consumer.open_events(), fetched_at=consumer.fetched_at)

    def lags(self) -> dict[tuple[str, int], int]:
        """Offsets between what is committed and the stable end, per partition held; a transaction's marker counts as one."""
        committed = self.consumer.committed()
        ends = dict(self.app.monitor.tp_end_offsets)
        return {(tp.topic, tp.partition): max(end - committed[tp], 0) for tp, end in ends.items() if tp in committed}

    async def stopped(self) -> None:
        """Returns when the application has crashed or was stopped."""
        await self.app.wait_until_stopped()

    async def stop(self) -> None:
        """Waits for what is on its way, commits, leaves the group. Raises what crashed the application."""
        if self.app.crash_reason is None:
            await self.pipeline.drain()
        await self.app.stop()
        if self.app.crash_reason is not None:
            raise self.app.crash_reason


def build_engine(
    settings: BusSettings,
    topics: Sequence[str],
    work: Work,
    *,
    group: str = GROUP,
    on_assigned: Callable[[], None] = lambda: None,
) -> Engine:
    """Must be called inside the running event loop. Nothing connects before `start`.

    `on_assigned` is called whenever partitions are taken, before any record of them is handled.
    """
    folder = settings.data_dir / "processors"
    folder.mkdir(parents=True, exist_ok=True)  # Faust needs it even when it keeps nothing on disk
    app = faust.App(group, loop=asyncio.get_running_loop(), datadir=str(folder), **_settings(settings))
    app.transport = app.producer_transport = transport = SafeTransport(app.conf.broker_consumer, app)
    transport.on_assigned = on_assigned

    async def send(record: Outgoing) -> "asyncio.Future[Any]":
        headers = [(name, text.encode()) for name, text in record.headers.items()]
        delivery = await app.producer.send(record.topic, record.key.encode(), record.value, record.partition, None, headers)
        return asyncio.ensure_future(delivery)

    pipeline = Pipeline(work, send)

    async def process(stream: Any) -> None:
        await pipeline.run(stream.noack().events(), app.crash)

    source = app.topic(*topics, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    app.agent(source, name="events")(process)
    return Engine(app, pipeline)


def _settings(settings: BusSettings) -> dict[str, Any]:
    brokers = ";".join(f"kafka://{host}" for host in settings.kafka_bootstrap.split(","))
    return {
        "broker": brokers,
        "broker_client_id": kafka.client_id(settings, "processors"),
        "broker_credentials": credentials(settings),
        "consumer_group_instance_id": settings.instance or None,
        "broker_session_timeout": SESSION_S,
        "broker_heartbeat_interval": 2.0,
        "broker_rebalance_timeout": 15.0,
        "broker_request_timeout": 20.0,  # above the rebalance time-out: joining waits that long for its answer
        "broker_commit_interval": COMMIT_INTERVAL_S,
        "broker_max_poll_records": 500,
        "consumer_auto_offset_reset": "earliest",  # canonical topics are compacted: what is left is what counts
        "consumer_max_fetch_size": RECORD_BYTES_MAX,
        "producer_acks": -1,
        "producer_linger": 0.0,
        "producer_max_request_size": RECORD_BYTES_MAX,
        "producer_request_timeout": 120.0,  # a broker may restart meanwhile; after it the process ends and starts anew
        "stream_buffer_maxsize": 4096,
        "stream_recovery_delay": 0.0,
        "stream_wait_empty": False,
        "autodiscover": False,
        "store": "memory://",
        "key_serializer": "raw",
        "value_serializer": "raw",
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "web_enabled": False,  # its server listens on all addresses and shows tables
        "worker_redirect_stdouts": False,
    }


def credentials(settings: BusSettings) -> Any:
    """SASL and TLS of the settings in Faust's form; None for plain text."""
    context = _tls(settings) if settings.kafka_security.endswith("SSL") else None
    if settings.kafka_security.startswith("SASL"):
        password = settings.kafka_sasl_password
        return faust.SASLCredentials(
            username=settings.kafka_sasl_username,
            password=password.get_secret_value() if password is not None else None,
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context=context) if context is not None else None


def _tls(settings: BusSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(settings.kafka_ca_file) if settings.kafka_ca_file else None)
    if settings.kafka_cert_file is not None:
        password = settings.kafka_key_password
        context.load_cert_chain(
            settings.kafka_cert_file, settings.kafka_key_file, password.get_secret_value() if password is not None else None
        )
    return context

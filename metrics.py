"""The one list of metrics: every name with its kind, meaning, unit and labels.

A process makes one `Metrics()` and hands it down; it is safe to use from any thread. Labels come from closed sets, a
value outside its set counts as "other", so no order ID, address or error text can become a series.

    metrics.decisions("approve", "model").inc()
    metrics.consumer_lag("facts", "3").set(1.5)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from orders.status import Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"

Metric = TypeVar("Metric", bound=Counter | Gauge | Histogram)
Label = Callable[[str], str]


def one_of(*values: str) -> Label:
    """A closed set known beforehand."""
    known = frozenset(values)
    return lambda value: value if value in known else OTHER


def few(limit: int) -> Label:
    """A set that configuration or a release makes (sources, model versions): the first `limit` values, then "other"."""
    seen: set[str] = set()

    def label(value: str) -> str:
        if value in seen:
            return value
        if len(seen) < limit and 0 < len(value) <= 64 and value.isprintable() and "@" not in value:
            seen.add(value)
            return value
        return OTHER

    return label


def number(limit: int) -> Label:
    """A partition number below `limit`."""
    return lambda value: value if value.isascii() and value.isdecimal() and len(value) <= 6 and int(value) < limit else OTHER


class Family(Generic[Metric]):
    """One metric with labels. Calling it with their values, in order, gives the child to count on."""

    def __init__(self, metric: Metric, labels: tuple[Label, ...]) -> None:
        self.metric = metric
        self._labels = labels
        self._children: dict[tuple[str, ...], Metric] = {}

    def __call__(self, *values: str) -> Metric:
        known = self._children.get(values)
        if known is not None:
            return known
        closed = self._close(values)
        child = cast("Metric", self.metric.labels(*closed)) if closed else self.metric
        if closed == values:  # never remember what came from outside the set: it may be anything
            self._children[values] = child
        return child

    def remove(self, *values: str) -> None:
        """The series vanishes: a partition that is no longer ours has no lag."""
        closed = self._close(values)
        self._children.pop(closed, None)
        self.metric.remove(*closed)

    def _close(self, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(label(value) for label, value in zip(self._labels, values, strict=True))


PROCESSOR = one_of("intake", "orders", "references", "stock", "customers", "archive")
TOPIC = one_of("deliveries", "facts", "references", "stock", "customers", "journal")
CHANNEL = one_of("email", "sms", "push", "webhook", "systems")
MODE = one_of("observe", "sandbox", "live", "stopped")
STATUS = one_of("", *Status)
TEMPLATE = one_of(
    "order_placed",
    "payment_confirmed",
    "payment_failed",
    "shipped",
    "out_for_delivery",
    "delivery_reminder",
    "delivered",
    "feedback",
    "cancelled",
    "refunded",
    "address_incomplete",
    "backordered",
    "delay",
)
STALLED = one_of("order", "payment", "stock", "warehouse", "carrier", "person")
PARKED = one_of(
    "malformed",
    "schema",
    "version",
    "bounds",
    "currency",
    "too_large",
    "null_key",
    "wrong_key",
    "wrong_partition",
    "unknown_source",
    "missing_body",
    "unknown_reference",
    "ambiguous_reference",
    "template_missing_field",
    "bad_field",
    "unknown_template",
    "header_injection",
    "processor_error",
)

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)
WAITS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0)  # quiet hours are in it
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)  # a lane's turn takes 8,192


class Metrics:
    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a start time per series says nothing here
        self.registry = CollectorRegistry()
        self._names: dict[str, Any] = {}
        counter, gauge, histogram = self._counter, self._gauge, self._histogram

        # --- in: gateway and intake
        self.ingest_events = counter(
            "ingest_events_total",
            "Deliveries at the gateway by what was answered.",
            vendor=few(32),
            outcome=one_of(
                *("accepted", "replayed", "duplicate", "ignored", "malformed", "invalid", "too_large", "too_slow"),
                *("unauthorized", "bad_signature", "unknown_source", "rate_limited", "log_down", "key_reused"),
            ),
        )
        self.ingest_ack_duration = histogram(
            "ingest_ack_duration_seconds", "From the last byte of a delivery to its 2xx, append included.", FAST, vendor=few(32)
        )
        self.facts = counter(
            "facts_total",
            "Facts by what merging them did; late and duplicate ones change nothing.",
            outcome=one_of("applied", "duplicate", "late", "superseded", "contradiction", "parked"),
        )
        self.event_to_status = histogram(
            "event_to_status_seconds",
            "From a fact's append to the log to its committed status; express where the order it changed was placed so.",
            FAST,
            **{"class": one_of("standard", "express")},
        )

        self.source_silence = gauge(
            "source_silence_seconds", "Since the last delivery of a source that was believed.", vendor=few(32), source=few(64)
        )
        self.source_silent_after = gauge(
            "source_silent_after_seconds", "How long a source may be silent before somebody looks.", vendor=few(32), source=few(64)
        )
        self.polls = counter(
            "polls_total",
            "Questions to vendors and subscriptions, by what came of them.",
            vendor=few(32),
            outcome=one_of("new", "known", "not_found", "later", "refused", "unreadable", "subscribed"),
        )
        self.reconcile_repairs = counter(
            "reconcile_repairs_total",
            "What no webhook had told and asking brought; every process shows the same tally: take the maximum.",
            kind=one_of("missed_paid", "missed_order", "missed_delivery", "missed_refund", "missed_other"),
        )

        # --- lanes
        self.lane_commits = counter("lane_commits_total", "Commits that the store accepted.", processor=PROCESSOR)
        self.lane_commit_duration = histogram(
            "lane_commit_duration_seconds", "One fenced commit, fsync included.", FAST, processor=PROCESSOR
        )
        self.lane_chunk = histogram("lane_chunk_records", "Records taken by one turn of a lane.", SIZES, processor=PROCESSOR)
        self.lane_losses = counter(
            "lane_losses_total",
            "Lanes dropped and acquired again, by why.",
            processor=PROCESSOR,
            reason=one_of("lane_lost", "store_went_back", "store_down", "log_mismatch", "state_version", "rebuilding", "processor_error"),
        )
        self.lane_stall = gauge(
            "lane_stall_seconds", "How long the oldest turn of any lane has been under way; 0 when none is.", processor=PROCESSOR
        )
        self.partitions = gauge(
            "partitions",
            "Partitions of this worker by state; all but positioned need a look.",
            processor=PROCESSOR,
            state=one_of("positioned", "unpositioned", "recovering", "mismatch"),
        )
        self.consumer_lag = gauge(
            "consumer_lag_seconds",
            "Age of the oldest record not yet committed; gone when the partition is.",
            topic=TOPIC,
            partition=number(4096),
        )
        self.backpressure = counter(
            "backpressure_seconds_total",
            # inbox: a partition is not read, its lane is full; outbox: a lane waits for the log to take its records; claims: a channel
            # has no slot for what wants to leave; archive: a partition is not read, its records are not in files yet
            "Time a stage was held back because the next was full, as seen once a second; each partition or channel by itself.",
            stage=one_of("inbox", "outbox", "claims", "archive"),
        )

        # --- what was decided
        self.transitions = counter(
            "transitions_total",
            "Changes of an order's status; a late or contradictory report counts from the status to itself.",
            **{"from": STATUS, "to": STATUS, "outcome": one_of("applied", "late", "contradiction")},
        )
        self.decisions = counter(
            "decisions_total",
            "Decisions by who made them.",
            decision=one_of("approve", "review", "decline"),
            source=one_of("model", "fallback", "person"),
        )
        self.model_batch_size = histogram("model_batch_size", "Rows in one call to the scorer.", SIZES)()
        self.model_score_duration = histogram(
            "model_score_duration_seconds",
            "One call to the scorer, as the lane sees it.",
            FAST,
            role=one_of("champion", "shadow", "canary", "fallback"),
        )
        self.model_info = gauge(
            "model_info", "1 for the model versions in use.", version=few(16), role=one_of("champion", "shadow", "canary", "fallback")
        )

        # --- out: messages and other effects
        self.notifications = counter(
            "notifications_total",
            "Attempts and final words on messages; a retryable one may still succeed.",
            channel=CHANNEL,
            template=TEMPLATE,
            outcome=one_of("sent", "rejected", "retryable", "unknown", "render_error", "suppressed", "expired", "observed", "withdrawn"),
        )
        self.notification_latency = histogram(
            "notification_latency_seconds",
            "From when a message was asked for, or might leave, to its acceptance by the provider.",
            WAITS,
            channel=CHANNEL,
            **{"class": one_of("transactional", "alert", "feedback")},
        )
        self.sender_queue = gauge("sender_queue_depth", "Claims handed to the sender and not yet answered.", channel=CHANNEL)
        self.sends_stopped = gauge(
            "sends_stopped", "1 while sending on this channel is stopped, by itself or by the global stop.", channel=CHANNEL
        )
        self.channel_mode = gauge("channel_mode", "1 for the mode a channel is in.", channel=CHANNEL, mode=MODE)
        self.unknown_effects = gauge(
            "unknown_effects", "Effects of which nobody can tell whether they happened; not resent by themselves."
        )()
        self.connector_requests = counter(
            "connector_requests_total",
            "Calls to outside systems by outcome.",
            vendor=few(32),
            outcome=one_of("sent", "rejected", "retryable", "unknown"),
        )
        self.connector_request_duration = histogram(
            "connector_request_duration_seconds", "One call to an outside system.", FAST, vendor=few(32)
        )

        self.circuit_state = gauge(
            "connector_circuit_state",
            "Whether calls pass: 0 closed, all do; 1 half open, one does; 2 open, none. The worst of a channel's providers.",
            vendor=few(32),
        )

        # --- what waits for a person
        self.review_age = gauge(
            "review_age_seconds",
            "How long the order that waits longest in a queue has waited; 0 when none does.",
            queue=one_of("review", "finance"),
        )
        self.parked_records = counter("parked_records_total", "Records that could not be read, by reason code.", reason=PARKED)
        self.parked_now = gauge("parked_waiting", "Parked records that nobody has dealt with yet.")()
        self.parked_orders = gauge("parked_orders", "Orders marked incomplete because a report about them is parked.")()

        self.convergence_checks = counter("convergence_checks_total", "Finished orders folded again in a shuffled order.")()
        self.convergence_violations = counter(
            "convergence_violations_total", "Of them, those whose state came out different: arrival order mattered, which must never be."
        )()

        self.stalled_orders = gauge(
            "stalled_orders",
            "Orders that stay in a status for longer than they should, by what they wait for.",
            status=STATUS,
            reason=STALLED,
        )

        # --- the process and what it stands on
        self.ready = gauge("ready", "1 when /readyz answers 200.")()
        self.degradation = gauge("degradation_level", "How many of Ray, model and replication are missing.")()
        self.loop_lag = gauge("loop_lag_seconds", "How late the event loop woke up last time.")()
        self.store_bytes = gauge("store_bytes", "Memory used by the store.")()
        self.log_bytes = gauge("log_bytes", "Disk used by the embedded log; 0 on Kafka.")()
        self.build_info = gauge("build_info", "1, labelled with the running version.", version=few(4))
        ProcessCollector(namespace="orderflow", registry=self.registry)

    def names(self) -> frozenset[str]:
        """Every series name that /metrics may show, histograms with their parts; for the tests of dashboards and alerts."""
        found: set[str] = set()
        for name, metric in self._names.items():
            found.update({f"{name}_bucket", f"{name}_sum", f"{name}_count"} if isinstance(metric, Histogram) else {name})
        for family in self.registry.collect():
            found.update(sample.name for sample in family.samples)
        return frozenset(found)

    def expose(self) -> bytes:
        """The body of /metrics, of type `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    # --- declaring
    def _counter(self, name: str, meaning: str, **labels: Label) -> Family[Counter]:
        return self._family(Counter(f"orderflow_{name}", meaning, tuple(labels), registry=self.registry), f"orderflow_{name}", labels)

    def _gauge(self, name: str, meaning: str, **labels: Label) -> Family[Gauge]:
        return self._family(Gauge(f"orderflow_{name}", meaning, tuple(labels), registry=self.registry), f"orderflow_{name}", labels)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], **labels: Label) -> Family[Histogram]:
        metric = Histogram(f"orderflow_{name}", meaning, tuple(labels), buckets=buckets, registry=self.registry)
        return self._family(metric, f"orderflow_{name}", labels)

    def _family(self, metric: Metric, name: str, labels: dict[str, Label]) -> Family[Metric]:
        self._names[name] = metric
        return Family(metric, tuple(labels.values()))

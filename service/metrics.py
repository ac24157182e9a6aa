"""What is counted, for Prometheus. Labels are routes and stable words, never what was asked."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

WAITED_FOR = ("headers", "body", "rest", "answer", "too_many")  # of a client that is cut off
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "staydown_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "staydown_request_seconds", "Time to an answer", ["route"], buckets=_BUCKETS_S, registry=self.registry
        )
        self.verdicts = Counter("staydown_verdicts", "Verdicts given", ["verdict", "reason"], registry=self.registry)
        self.errors = Counter("staydown_errors", "Errors answered, by their code", ["code"], registry=self.registry)
        self.in_flight = Gauge("staydown_media_in_flight", "Media requests under way", registry=self.registry)
        self.dropped = Counter(
            "staydown_connections_dropped", "Connections cut off, by what was waited for", ["why"],
            registry=self.registry,
        )  # fmt: skip
        for why in WAITED_FOR:
            self.dropped.labels(why)
        self.probing = Counter(
            "staydown_probing_alarms", "Keys that seemed to probe for hashes", registry=self.registry
        )
        self.hashes = Gauge("staydown_index_hashes", "Searchable hashes", ["signal_type"], registry=self.registry)
        self.age = Gauge(
            "staydown_index_age_seconds", "Time since the index was known to be current", registry=self.registry
        )
        self.revision = Gauge("staydown_index_revision", "Revision the index is at", registry=self.registry)
        self.record_revision = Gauge("staydown_record_revision", "Revision the store is at", registry=self.registry)
        self.store_reached = Gauge("staydown_store_reached", "Whether the store answers", registry=self.registry)
        self.ready = Gauge("staydown_ready", "Whether checks are answered", registry=self.registry)
        ProcessCollector(registry=self.registry)  # memory, processor time, open files

    def drop(self, why: str) -> None:
        """Count a connection that was cut off."""
        self.dropped.labels(why).inc()

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)

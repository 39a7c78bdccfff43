"""Log records and metrics. Every record of a request carries its id; none carries a token, a body or an environment variable."""

import logging
import sys
from contextvars import ContextVar
from functools import lru_cache

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from orchestrator.settings import Settings

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, that nobody reads
REGISTRY = CollectorRegistry()

_CALL_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 20, 60)
_SETUP_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

REQUESTS = Counter(
    "kodou_http_requests", "HTTP requests by route and status.", ["method", "route", "status"], registry=REGISTRY
)
SETUPS = Counter("kodou_setups", "Setups by outcome: built, reused, or a problem code.", ["outcome"], registry=REGISTRY)
SETUP_SECONDS = Histogram(
    "kodou_setup_seconds", "Setup, from request to session id.", ["reused"], buckets=_SETUP_BUCKETS_S, registry=REGISTRY
)
BUILDS = Counter("kodou_builds", "Builds by outcome: ready or failed.", ["outcome"], registry=REGISTRY)
BUILD_SECONDS = Histogram(
    "kodou_build_seconds", "Builds, from resolving to the image.", buckets=_SETUP_BUCKETS_S, registry=REGISTRY
)
CALLS = Counter("kodou_calls", "Calls by outcome: the kind of reply.", ["outcome"], registry=REGISTRY)
CALL_SECONDS = Histogram(
    "kodou_call_seconds", "Calls, from the request read to the reply.", buckets=_CALL_BUCKETS_S, registry=REGISTRY
)
SESSIONS = Gauge("kodou_sessions", "Live sessions.", registry=REGISTRY)
FROZEN_SANDBOXES = Gauge("kodou_frozen_sandboxes", "Sandboxes frozen for want of calls.", registry=REGISTRY)
POOL_SANDBOXES = Gauge("kodou_pool_sandboxes", "Warm sandboxes that wait for a session.", registry=REGISTRY)
SHARED_SANDBOXES = Gauge("kodou_shared_sandboxes", "Sandboxes that sessions of one owner share.", registry=REGISTRY)
POOL_CLAIMS = Counter(
    "kodou_pool_claims",
    "Sessions opened that a warm sandbox may serve, by whether there was one: hit or miss.",
    ["outcome"],
    registry=REGISTRY,
)
IMAGES = Gauge("kodou_images", "Images (built environments).", registry=REGISTRY)
IMAGE_BYTES = Gauge("kodou_image_bytes", "Bytes that images take.", registry=REGISTRY)
WORKERS = Gauge("kodou_workers", "API processes that accept connections.", registry=REGISTRY)
WORKER_RESTARTS = Counter("kodou_worker_restarts", "API processes that ended and were started anew.", registry=REGISTRY)

log: structlog.stdlib.BoundLogger = structlog.get_logger("kodou")


# A variable of its own: structlog's bound ones cost ten times as much, and each request sets this.
REQUEST_ID: ContextVar[str] = ContextVar("kodou_request_id")


def _with_request_id(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if (id := REQUEST_ID.get(None)) is not None:
        event["request_id"] = id
    return event


def configure_logging(settings: Settings) -> None:
    """Send structlog and the standard library's records to standard error, as JSON lines or for a terminal."""
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_request_id,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in ("httpx", "httpcore", "docker", "urllib3", "alembic", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@lru_cache(maxsize=1024)  # looking a label set up costs more than counting
def _requests(method: str, route: str, status: int) -> Counter:
    return REQUESTS.labels(method, route, str(status))


def count_request(method: str, route: str, status: int) -> None:
    _requests(method, route, status).inc()


@lru_cache(maxsize=64)
def _calls(outcome: str) -> Counter:
    return CALLS.labels(outcome)


def count_call(outcome: str, seconds: float) -> None:
    _calls(outcome).inc()
    CALL_SECONDS.observe(seconds)

"""All settings, in one frozen model. Each is a `KODOU_…` variable; units stand in the names (`_s`, `_ms`, `_mb`, `_bytes`).

`docs/settings.md` is made from the descriptions here (`scripts/settings-doc`), and a test keeps it true.
"""

import os
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

BackendName = Literal["auto", "docker", "bubblewrap", "process"]
_HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def default_data_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/kodou")
    return Path(os.environ.get("XDG_DATA_HOME", "~/.local/share")).expanduser() / "kodou"


class Settings(BaseSettings):
    """Refuses, with the reason, a combination that is unsafe."""

    model_config = SettingsConfigDict(env_prefix="KODOU_", frozen=True, extra="forbid")

    # --- where ---
    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback needs `allow_remote`.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it.")
    allow_remote: bool = Field(
        False, description="Listen on an address that other machines reach. Put a TLS proxy in front of it."
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Holds the store, signing keys, wheels, environments and run directories. Kept 0711, its secrets 0600.",
    )
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the store; default: SQLite in the data directory."
    )

    # --- backend ---
    backend: BackendName = Field(
        "auto", description="`auto` takes docker if an engine answers, else bubblewrap, else refuses to start."
    )
    allow_process_backend: bool = Field(
        False, description="Let `backend=process` start. It isolates nothing: for tests and development only."
    )
    docker_url: str | None = Field(None, description="Engine to use; default: the Docker client's own environment.")
    docker_timeout_s: float = Field(60, gt=0, description="How long one engine request may take.")
    docker_runtime: str | None = Field(
        None, description="Container runtime, such as `runsc`; default: the engine's own."
    )
    base_images: tuple[str, ...] = Field(
        ("python:3.13-slim", "python:3.12-slim", "python:3.11-slim"),
        description="Docker: images with a `python3` that runner images are built from, one interpreter each (JSON list).",
    )
    base_packages: tuple[str, ...] = Field(
        (),
        description="Docker: Debian packages to add to those, such as `build-essential` for packages that are C source.",
    )
    interpreters: tuple[Path, ...] = Field(
        (),
        description="Bubblewrap, process: interpreters to offer (JSON list); default: those under /usr and /usr/local.",
    )
    default_version: str | None = Field(
        None, description="Interpreter version for setups that name none, such as `3.12`; default: the newest on offer."
    )
    sandbox_uid_base: int = Field(
        2_000_000, ge=1000, description="First of the user ids that sandboxes run under, one each."
    )
    sandbox_uid_count: int = Field(60_000, ge=1, description="How many user ids sandboxes may take.")
    landlock: Literal["off", "auto", "required"] = Field(
        "auto",
        description="Bubblewrap: the kernel's Landlock as a second wall. `required`: refuse to start without it.",
    )
    required_promises: tuple[str, ...] = Field(
        (),
        description="Promises, by their names in `kodou doctor`, without which the server refuses to start (JSON list).",
    )

    # --- the engine apart ---
    driver_socket: Path | None = Field(
        None,
        description="Socket of a `kodou driver`, which then holds the engine in place of the server's own process.",
    )
    driver_users: tuple[str, ...] = Field(
        (),
        description="Users, by name or id, that a driver serves besides its own and its socket directory's owner (JSON list).",
    )
    wheels_dir: Path = Field(
        default_factory=lambda data: data["data_dir"] / "wheels",
        description="Package files, written by the fetcher only. A driver reads them from the server's data directory.",
    )

    # --- package index ---
    index_url: str = Field("https://pypi.org/simple", description="The one package index. Never mixed with another.")
    index_file_hosts: tuple[str, ...] = Field(
        ("files.pythonhosted.org",),
        description="Hosts, besides the index's own, that files may be fetched from (JSON list).",
    )
    ca_bundle: Path | None = Field(
        None, description="PEM file of extra authorities for the index; default: `SSL_CERT_FILE`, else the system's."
    )
    index_proxy: str | None = Field(None, description="HTTP proxy on the way to the index, as `http://host:port`.")
    exclude_newer: str | None = Field(None, description="Ignore releases after this date (RFC 3339) or age (`7 days`).")
    allow_source_builds: bool = Field(
        True, description="Build packages that have no wheel, in a sandbox of their own. False refuses such sets."
    )

    # --- builds ---
    max_dependencies: int = Field(50, ge=1, description="Dependencies that one setup may name.")
    max_dependency_bytes: int = Field(200, ge=1, description="Length of one dependency string.")
    max_builds: int = Field(2, ge=1, description="Builds that run at once; more wait.")
    max_builds_waiting: int = Field(50, ge=0, description="Builds that may wait; more are refused with 429.")
    max_builds_per_owner: int = Field(
        20, ge=1, description="Builds of one owner that may run or wait; more are refused with 429."
    )
    build_timeout_s: float = Field(600, gt=0, description="How long one build may take, from resolving to the image.")
    build_memory_mb: int = Field(2048, ge=128, description="Memory of a builder sandbox.")
    build_disk_mb: int = Field(4096, ge=16, description="What one environment may take on disk.")
    build_files: int = Field(200_000, ge=100, description="Files that one environment may hold.")
    build_log_tail_bytes: int = Field(16_384, ge=256, description="How much of the log's end a build error carries.")
    alias_ttl_s: int = Field(86_400, ge=0, description="How long a dependency set is answered without resolving again.")

    # --- sessions ---
    session_ttl_s: int = Field(3600, ge=1, description="Idleness after which a session is reaped, if setup names none.")
    session_max_ttl_s: int = Field(86_400, ge=1, description="Largest `ttl` that a setup may ask for.")
    session_max_age_s: int = Field(604_800, ge=1, description="How long a session id is valid at most.")
    max_sessions: int = Field(500, ge=1, description="Live sessions of the whole server; more are refused with 429.")
    max_sessions_per_owner: int = Field(50, ge=1, description="Live sessions of one owner; more are refused with 429.")
    pool_memory_mb: int = Field(
        512, ge=0, description="Memory for warm sandboxes, which make the next setup of an environment quick; 0: none."
    )
    pool_sandboxes: int = Field(
        8, ge=1, description="Warm sandboxes at most. Each may take as much memory as its session may."
    )
    pool_idle_s: float = Field(
        300, gt=0, description="How long an environment keeps a warm sandbox after its last setup."
    )
    freeze_idle_s: float = Field(
        0,
        ge=0,
        description="Idleness after which a sandbox is frozen until its next call: threads of its own stand still; 0: never.",
    )
    share_sandboxes: Literal["never", "owner"] = Field(
        "never",
        description="`owner`: sessions of one owner on one environment share a sandbox. Many more fit, less apart: SECURITY.md.",
    )
    max_sessions_per_sandbox: int = Field(
        50, ge=1, le=1022, description="Sessions in one shared sandbox, each with a user id of its own."
    )
    shared_sandbox_shares: int = Field(
        8,
        ge=1,
        description="How many sessions' memory, processors and disk a shared sandbox has, for all that are in it.",
    )
    max_starts: int = Field(8, ge=1, description="Sandboxes that start at once; more wait.")
    reap_interval_s: float = Field(5, gt=0, description="How often idle sessions and leftovers are looked for.")
    sandbox_start_timeout_s: float = Field(
        60, gt=0, description="How long a sandbox may take until its runner answers."
    )
    orphan_s: int = Field(
        600, ge=1, description="How long a sandbox waits for a restarted server before it ends itself."
    )
    memory_mb: int = Field(512, ge=64, description="Memory of a sandbox, swap included, if setup names none.")
    max_memory_mb: int = Field(4096, ge=64, description="Most memory that a setup may ask for.")
    cpus: float = Field(1.0, gt=0, description="Processors of a sandbox, if setup names none.")
    max_cpus: float = Field(4.0, gt=0, description="Most processors that a setup may ask for.")
    pids: int = Field(128, ge=8, description="Processes and threads of a sandbox, if setup names none.")
    max_pids: int = Field(1024, ge=8, description="Most processes that a setup may ask for.")
    disk_mb: int = Field(256, ge=1, description="Size of a sandbox's /tmp, if setup names none. Counts as its memory.")
    max_disk_mb: int = Field(2048, ge=1, description="Largest /tmp that a setup may ask for.")
    allow_egress: bool = Field(
        False,
        description='Let keys with the scope `egress` ask for `"network": "egress"`: a proxy to public addresses.',
    )
    egress_ports: tuple[int, ...] = Field((80, 443), description="Ports that egress may reach (JSON list).")
    egress_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts that egress may reach: names, or `*.example.org` for all below one (JSON list); default: any public.",
    )
    egress_allowed_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="Networks that egress may reach besides public ones (JSON list); loopback, link-local, own: never.",
    )
    egress_denied_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="Networks that egress may not reach though public (JSON list), such as your own.",
    )
    egress_proxy: str | None = Field(
        None,
        description="HTTP proxy for all egress, as `index_proxy`. It resolves names: let it refuse private addresses.",
    )
    egress_max_connections: int = Field(
        2048, ge=1, description="Connections of all sandboxes through egress; more get 503."
    )
    egress_max_connections_per_sandbox: int = Field(
        64, ge=1, description="Connections of one sandbox through egress; more get 503."
    )
    egress_connect_timeout_s: float = Field(
        20, gt=0, description="How long egress may take to resolve a name, and to connect."
    )
    egress_idle_timeout_s: float = Field(
        120, gt=0, description="How long a connection through egress may lie idle before it is cut."
    )
    egress_mb_per_s: float = Field(
        32,
        gt=0,
        description="Megabytes a second that all connections of one sandbox may move through egress, both ways.",
    )
    max_env_vars: int = Field(64, ge=0, description="Environment variables that a setup may set.")
    max_env_bytes: int = Field(16_384, ge=0, description="Names and values of those variables together.")

    # --- calls ---
    call_timeout_ms: int = Field(20_000, ge=1, description="Timeout of a call that names none.")
    max_call_timeout_ms: int = Field(600_000, ge=1, description="Largest timeout that a call may ask for.")
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="Largest request body.")
    max_upload_bytes: int = Field(
        1024**3, ge=1024, le=2**32 - 2**24, description="Largest request body that comes with files."
    )
    max_upload_parts: int = Field(
        10_000, ge=1, description="Parts of a request that comes with files, files for the most."
    )
    max_spooled_bytes: int = Field(
        8 * 1024**3, ge=1024, description="Files of all requests under way that lie on disk, all together; more: 503."
    )
    max_spooled_bytes_per_owner: int = Field(
        2 * 1024**3, ge=1024, description="Files of one owner's requests under way that lie on disk; more: 503."
    )
    max_protobuf_fields: int = Field(
        2_000_000, ge=1000, description="Fields of a request, and values of a reply, in Protocol Buffers."
    )
    max_depth: int = Field(100, ge=4, le=900, description="Deepest nesting of JSON in a request.")
    max_reply_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="Largest reply of a call, as JSON.")
    max_content_bytes: int = Field(
        1024**3,
        ge=1024,
        le=2**32 - 2**24,
        description="Largest value in another form than JSON, or files of one in parts.",
    )
    max_references: int = Field(1000, ge=0, description="Values that one session may keep.")
    max_reference_mb: int = Field(
        256, ge=0, description="Memory that the values which a session keeps may take, by estimate."
    )
    max_output_bytes: int = Field(65_536, ge=0, description="How much of each of stdout and stderr a reply carries.")
    max_items: int = Field(1_000_000, ge=1, description="Items that a generator or iterator is drained of at most.")
    max_parallel: int = Field(
        8, ge=1, description="Sandboxes that one list operation may be spread over; each is a session of its owner's."
    )
    max_stages: int = Field(
        100, ge=1, description="Pipes and stages together of a composition that runs in more than one sandbox."
    )
    max_composed_values: int = Field(
        2_000_000, ge=1000, description="Values of such a composition's request, and of what one part hands the next."
    )
    max_waiting_calls: int = Field(
        32, ge=1, description="Calls that may wait for their turn in one session; more: 429."
    )

    # --- limits on who asks ---
    requests_per_s: float = Field(
        1000, gt=0, description="Requests a second of one key, calls for the most part, in the long run; more: 429."
    )
    burst_requests: int = Field(2000, ge=1, description="Requests of one key that may come at once after a rest.")
    max_requests_per_key: int = Field(200, ge=1, description="Requests of one key under way at once; more: 429.")
    max_requests: int = Field(800, ge=1, description="Requests of all keys under way at once; more: 503.")
    setups_per_s: float = Field(20, gt=0, description="Setups a second of one owner, in the long run; more: 429.")
    burst_setups: int = Field(100, ge=1, description="Setups of one owner that may come at once after a rest.")
    max_setups_per_owner: int = Field(
        50, ge=1, description="Setups of one owner under way at once, streamed and polled ones too; more: 429."
    )
    max_setups: int = Field(200, ge=1, description="Setups of all owners under way at once; more: 503.")
    failures_per_s: float = Field(
        10,
        gt=0,
        description="Refused credentials a second from one address, in the long run; more: 429 instead of 401.",
    )
    burst_failures: int = Field(50, ge=1, description="Refused credentials that may come from one address at once.")

    # --- server ---
    workers: int = Field(
        1, ge=1, le=64, description="API processes. From 2 on, they speak HTTP for one that has the sessions."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Names a Host header may hold, besides loopback's, `host` and addresses (JSON list); `*`: any.",
    )
    max_head_bytes: int = Field(
        32_768, ge=1024, description="Largest request line and headers together; more: 431. Trailers too."
    )
    max_held_bytes: int = Field(
        1024**3,
        ge=1024,
        description="Request bodies of all clients held at once; more: 503. At least `max_body_bytes`.",
    )
    max_unread_bytes: int = Field(
        1024**3,
        ge=1024,
        description="Replies that lie unread, of all clients; over it those that wait longest are cut.",
    )
    shutdown_s: float = Field(30, gt=0, description="How long running calls may take to end when the server stops.")
    keep_sessions: bool = Field(True, description="Leave sandboxes running when the server stops, for the next start.")
    max_connections: int = Field(1000, ge=1, description="Connections that clients may hold open; more get 503.")
    header_timeout_s: float = Field(15, gt=0, description="How long a client may take to send a request's head.")
    body_timeout_s: float = Field(
        30,
        gt=0,
        description="How long a client may take to send a request's body; if it has files: each 256 KiB of it.",
    )
    reply_timeout_s: float = Field(60, gt=0, description="How long a client may leave a reply unread before it is cut.")
    keep_alive_s: float = Field(75, gt=0, description="How long an idle connection is kept open for the next request.")
    log_format: Literal["json", "console", "auto"] = Field(
        "auto", description="`auto`: console on a terminal, else json."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    metrics_public: bool = Field(True, description="Serve /metrics without a key. False: the `admin` scope is needed.")

    @field_validator("data_dir", "driver_socket", "wheels_dir", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("egress_hosts", mode="after")
    @classmethod
    def _host_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if not _HOST_PATTERN.fullmatch(pattern):
                msg = f"{pattern!r} is no host name, nor one after `*.`"
                raise ValueError(msg)
        return tuple(pattern.lower() for pattern in value)

    @field_validator("egress_proxy", mode="after")
    @classmethod
    def _http_proxy(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("http://"):
            msg = "a proxy is named as http://[user:password@]host:port"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _safe(self) -> "Settings":
        if self.host not in LOOPBACK and not self.allow_remote:
            msg = f"host {self.host!r} is reachable from other machines: set KODOU_ALLOW_REMOTE=1 if a TLS proxy stands before it"
            raise ValueError(msg)
        if self.backend == "process" and not self.allow_process_backend:
            msg = "the process backend isolates nothing: set KODOU_ALLOW_PROCESS_BACKEND=1 to use it for development"
            raise ValueError(msg)
        for least, most in (
            ("memory_mb", "max_memory_mb"),
            ("cpus", "max_cpus"),
            ("pids", "max_pids"),
            ("disk_mb", "max_disk_mb"),
            ("session_ttl_s", "session_max_ttl_s"),
            ("call_timeout_ms", "max_call_timeout_ms"),
            ("max_body_bytes", "max_held_bytes"),
            ("max_upload_bytes", "max_spooled_bytes"),
            ("max_upload_bytes", "max_spooled_bytes_per_owner"),
        ):
            if getattr(self, least) > getattr(self, most):
                msg = f"{least} is over {most}"
                raise ValueError(msg)
        if not self.index_url.startswith(("https://", "http://")):
            msg = "index_url must begin with https:// or http://"
            raise ValueError(msg)
        return self

    @property
    def run_dir(self) -> Path:
        """One directory a sandbox, holding the socket its runner connects to. 0711."""
        return self.data_dir / "run"

    @property
    def spool_dir(self) -> Path:
        """Files of uploads, without names. 0700."""
        return self.data_dir / "spool"

    @property
    def environments_dir(self) -> Path:
        """Virtual environments of the bubblewrap and process backends."""
        return self.data_dir / "environments"

    @property
    def builds_dir(self) -> Path:
        """One directory a build under way."""
        return self.data_dir / "builds"

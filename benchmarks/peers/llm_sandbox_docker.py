"""llm-sandbox on docker, driven: `<image> [pool]`. Its image has numpy, so its own setup of an environment is left out."""

import sys

import docker
from driving import CODE, Peer, serve
from llm_sandbox import SandboxSession
from llm_sandbox.pool import PoolConfig, create_pool_manager

PRINTED = CODE.replace("float", "print(float") + ")"
# The same limits as kodou's; ended by SIGKILL, as its process 1 heeds no other and would be waited for.
CONFIG = {
    "network_mode": "none",
    "mem_limit": "512m",
    "pids_limit": 128,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "stop_signal": "SIGKILL",
}
POOL = 4


class Sandboxes(Peer):
    def __init__(self, image: str, pooled: bool) -> None:
        self._options = {"lang": "python", "image": image, "runtime_configs": CONFIG, "skip_environment_setup": True}
        self._engine = docker.from_env()
        self._pool = None
        if pooled:
            config = PoolConfig(min_pool_size=POOL, max_pool_size=POOL)
            self._pool = create_pool_manager(config=config, client=self._engine, **self._options)

    def start(self) -> SandboxSession:
        if self._pool:
            session = SandboxSession(lang="python", pool=self._pool)
        else:
            session = SandboxSession(client=self._engine, **self._options)
        session.open()
        self.call(session)
        return session

    def call(self, session: SandboxSession) -> float:
        done = session.run(PRINTED)
        if done.exit_code:
            raise RuntimeError(done.stderr)
        return float(done.stdout)

    def pid(self, session: SandboxSession) -> int:
        session.container.reload()
        return int(session.container.attrs["State"]["Pid"])

    def end(self, session: SandboxSession) -> None:
        session.close()

    def close(self) -> None:
        if self._pool:
            self._pool.close()


if __name__ == "__main__":
    serve(lambda: Sandboxes(sys.argv[1], "pool" in sys.argv[2:]))

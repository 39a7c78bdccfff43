"""A process of its own that sets a package up, beside a server on the same data directory; `test_same_setup.py` runs it.

It says "ready", begins on a line of input, and prints as JSON whether the environment was there already.
"""

import asyncio
import json
import sys

from orchestrator import telemetry
from orchestrator.driver.selection import select_backend
from orchestrator.environments.builds import Environments
from orchestrator.settings import Settings
from orchestrator.store.sql import open_store


async def main(backend: str, package: str) -> None:
    settings = Settings(backend=backend)  # type: ignore[arg-type]
    telemetry.configure_logging(settings)
    chosen = await select_backend(settings)
    store = await asyncio.to_thread(open_store, settings)
    environments = Environments(settings, store, chosen.images, backend=chosen.name)
    try:
        await chosen.images.prepare()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        build = await environments.setup("python", None, [package])
        print(json.dumps({"reused": (await build.result()).reused}))
    finally:
        await environments.aclose()
        await chosen.aclose()
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

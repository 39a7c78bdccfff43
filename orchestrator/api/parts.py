"""What the API is put together from. Whoever makes these parts also ends them, in `app.py`'s lifespan."""

from dataclasses import dataclass

from orchestrator.auth.keys import Keys
from orchestrator.auth.limits import Limits
from orchestrator.auth.tokens import Tokens
from orchestrator.environments.builds import Environments
from orchestrator.preparation import Preparation
from orchestrator.sandboxes.backend import SandboxBackend
from orchestrator.sessions.manager import SessionManager
from orchestrator.settings import Settings
from orchestrator.store.base import Store


@dataclass(frozen=True, slots=True)
class Parts:
    settings: Settings
    store: Store
    backend: SandboxBackend
    preparation: Preparation
    environments: Environments
    sessions: SessionManager
    keys: Keys
    tokens: Tokens
    limits: Limits

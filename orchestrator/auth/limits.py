"""Who may do how much: so many requests a second and so many at once for each, so many at once for all.

In memory, on one event loop: a check is a dictionary lookup and a few comparisons, since every call makes one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic

from orchestrator.errors import RateLimited, Unavailable
from orchestrator.settings import Settings

# Holders remembered before those that are at rest are looked for; keys are the server's own, but addresses are anyone's.
REMEMBERED = 10_000
RETRY_S = 1.0
REFUSING_S = 1.0
_ROUNDING_S = 1e-6  # sums of floats must not make the burst one smaller


class _Share:
    """One holder's: `due` is the time at which its bucket would be full again (the generic cell rate algorithm)."""

    __slots__ = ("due", "running")

    def __init__(self) -> None:
        self.due = 0.0
        self.running = 0


_AT_REST = _Share()


class Gate:
    """A token bucket and a number of places for each holder (a key, an owner, an address), and places for all of them.

    Args:    what: plural, for the refusal. per_s: in the long run. burst: at once, after a rest. each: places of one
             holder. total: places of all.
    """

    def __init__(self, what: str, *, per_s: float, burst: int, each: float = inf, total: float = inf) -> None:
        self.running = 0
        self._what = what
        self._per_s = per_s
        self._interval_s = 1 / per_s
        self._slack_s = (burst - 1) / per_s + _ROUNDING_S
        self._each = each
        self._total = total
        self._shares: dict[str, _Share] = {}
        self._look_at = REMEMBERED
        self._refused_at = -inf

    def __len__(self) -> int:
        """Holders remembered."""
        return len(self._shares)

    def enter(self, holder: str) -> None:
        """Take a place, to be given back with `leave`.

        Raises: RateLimited: the holder asks too often, or has all its places; says when to come again.
                Unavailable: all places of the server are taken.
        """
        share = self._shares.get(holder) or self._remember(holder)
        self._take(share)
        share.running += 1
        self.running += 1

    def leave(self, holder: str) -> None:
        self._shares[holder].running -= 1
        self.running -= 1

    @contextmanager
    def place(self, holder: str) -> Iterator[None]:
        """`enter` and `leave` around a block. Raises what `enter` does."""
        self.enter(holder)
        try:
            yield
        finally:
            self.leave(holder)

    def count(self, holder: str) -> None:
        """For what takes no place. Raises `RateLimited`."""
        self._take(self._shares.get(holder) or self._remember(holder))

    def check(self, holder: str) -> None:
        """Raises `RateLimited` if the next `count` would; counts nothing."""
        if (refusal := self.refusal(holder)) is not None:
            raise refusal

    def refusal(self, holder: str) -> RateLimited | Unavailable | None:
        """What the next `enter` would raise; takes nothing."""
        now = monotonic()
        refusal = self._against(self._shares.get(holder, _AT_REST), now)
        if refusal is not None:
            self._refused_at = now
        return refusal

    def refusing(self) -> bool:
        """Somebody was refused within the last second: more are likely to be, and `refusal` is worth asking for."""
        return monotonic() - self._refused_at < REFUSING_S

    def _take(self, share: _Share) -> None:
        now = monotonic()
        if (refusal := self._against(share, now)) is not None:
            self._refused_at = now
            raise refusal
        share.due = max(share.due, now) + self._interval_s

    def _against(self, share: _Share, now: float) -> RateLimited | Unavailable | None:
        if share.running >= self._each:
            msg = f"{share.running} {self._what} of yours are under way, the most there may be: wait for one to end"
            return RateLimited(msg, after_s=RETRY_S)
        if self.running >= self._total:
            msg = f"the server has as many {self._what} under way as it takes: try again later"
            return Unavailable(msg, after_s=RETRY_S)
        if (wait_s := share.due - now - self._slack_s) > 0:
            return RateLimited(f"more than {self._per_s:g} {self._what} a second: slow down", after_s=wait_s)
        return None

    def _remember(self, holder: str) -> _Share:
        if len(self._shares) >= self._look_at:
            self._forget()
        share = self._shares[holder] = _Share()
        return share

    def _forget(self) -> None:
        """Drop holders whose bucket is full and who have no place: they are as if they had never come."""
        now = monotonic()
        self._shares = {holder: share for holder, share in self._shares.items() if share.running or share.due > now}
        # Not at each newcomer again while all that are left are busy.
        self._look_at = max(REMEMBERED, 2 * len(self._shares))


class Limits:
    """The gates of one server."""

    def __init__(self, settings: Settings) -> None:
        self.requests = Gate(  # by key
            "requests",
            per_s=settings.requests_per_s,
            burst=settings.burst_requests,
            each=settings.max_requests_per_key,
            total=settings.max_requests,
        )
        self.setups = Gate(  # by owner
            "setups",
            per_s=settings.setups_per_s,
            burst=settings.burst_setups,
            each=settings.max_setups_per_owner,
            total=settings.max_setups,
        )
        self.failures = Gate(  # by address
            "refused credentials", per_s=settings.failures_per_s, burst=settings.burst_failures
        )

"""What a backend promises on this machine, one line each, for `kodou doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """`held`: this machine can keep it. `detail` says what was found, and what to do where it is not held."""

    name: str
    held: bool
    detail: str

"""What stands here for something in an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from typing import Self


class StandIn:
    """Base of environments and expressions: what would only seem to reach the environment is refused."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises AttributeError: the name is not one of ours, which begin with an underscore."""
        if not name.startswith("_"):
            msg = (
                f"{name!r} would be set here alone; `env.setattr(handle, {name!r}, …).value()` sets it on what is kept"
            )
            raise AttributeError(msg)
        super().__setattr__(name, value)

    def __setitem__(self, key: object, value: object) -> NoReturn:
        msg = "items are not set from here; `env.operator.setitem(handle, key, …).value()` does it to what is kept"
        raise TypeError(msg)

    def __delitem__(self, key: object) -> NoReturn:
        msg = "items are not deleted from here; `env.operator.delitem(handle, key).value()` does it to what is kept"
        raise TypeError(msg)

    def __copy__(self) -> Self:
        return self  # there is no second one of what it stands for

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        msg = f"{type(self).__name__} objects belong to their process and are not pickled: send the value"
        raise TypeError(msg)

"""Which server this is: whatever it makes on an engine carries its id, so that two servers leave each other's alone."""

import re
import secrets
from contextlib import suppress
from pathlib import Path

_ID = re.compile(r"[0-9a-f]{16}")


def instance_id(data_dir: Path) -> str:
    """16 hex digits, made on first use and kept in the data directory. Blocks. Raises `OSError`, `ValueError`."""
    path = data_dir / "instance"
    data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        return _checked(path)
    # Linked into place whole, and never over another's: of two processes that start at once, both read one id.
    new = data_dir / f".instance-{secrets.token_hex(8)}"
    new.write_text(secrets.token_hex(8) + "\n")
    try:
        with suppress(FileExistsError):
            path.hardlink_to(new)
    finally:
        new.unlink()
    return _checked(path)


def _checked(path: Path) -> str:
    text = path.read_text().strip()
    if not _ID.fullmatch(text):
        msg = f"{path} should hold 16 hex digits; remove it once no sandbox of this server is left"
        raise ValueError(msg)
    return text

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.auth import signing_keys
from orchestrator.auth.signing_keys import UnsafeKey


def test_the_first_key_is_made_and_kept(tmp_path: Path) -> None:
    made = signing_keys.load(tmp_path, "api")
    assert [len(key) for key in made.values()] == [32]
    assert signing_keys.load(tmp_path, "api") == made
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_kinds_have_keys_of_their_own(tmp_path: Path) -> None:
    api, session = signing_keys.load(tmp_path, "api"), signing_keys.load(tmp_path, "session")
    assert not set(api.values()) & set(session.values())


def test_a_key_that_is_added_is_the_last_and_the_others_stay(tmp_path: Path) -> None:
    first = signing_keys.load(tmp_path, "api")
    kid = signing_keys.add(tmp_path, "api")
    both = signing_keys.load(tmp_path, "api")
    assert list(both) == [*first, kid]
    assert both[next(iter(first))] == next(iter(first.values()))


def test_a_half_written_or_foreign_file_is_no_key(tmp_path: Path) -> None:
    made = signing_keys.load(tmp_path, "api")
    (tmp_path / ".api-0123456789abcdef").write_bytes(b"x")
    (tmp_path / "api-1.key").write_bytes(b"x")
    (tmp_path / "README").write_text("keys")
    assert signing_keys.load(tmp_path, "api") == made


def test_processes_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.auth import signing_keys; sys.stdin.read(1);"
        "print(signing_keys.load(Path(sys.argv[1]), 'api'))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert len({process.communicate("\n", timeout=60)[0] for process in started}) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"short", bytes(31), bytes(32), b"changeme" * 4])
def test_a_short_or_plainly_made_up_key_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "api-00000001.key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(UnsafeKey, match="api-00000001"):
        signing_keys.load(tmp_path, "api")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    signing_keys.load(tmp_path, "api")
    (file,) = tmp_path.iterdir()
    file.chmod(mode)
    with pytest.raises(UnsafeKey, match="others"):
        signing_keys.load(tmp_path, "api")


def test_a_link_is_no_key(tmp_path: Path) -> None:
    signing_keys.load(tmp_path, "session")
    (tmp_path / "api-00000001.key").symlink_to(tmp_path / "session-00000001.key")
    with pytest.raises(OSError, match="api-00000001"):
        signing_keys.load(tmp_path, "api")

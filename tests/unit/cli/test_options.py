"""The forms of options' values, and settings refused with what to do."""

from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.options import SettingsRefused, duration, load_settings, names, open_data_dir, size


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("30d", timedelta(days=30)),
        ("12h", timedelta(hours=12)),
        ("45m", timedelta(minutes=45)),
        ("90s", timedelta(seconds=90)),
    ],
)
def test_durations(text: str, wanted: timedelta) -> None:
    assert duration(text) == wanted


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1.5h", "1 d", "٣d", "30d\n", "1w", "9999999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no duration"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0", 0), ("1000", 1000), ("20GB", 20 * 10**9), ("512MiB", 512 * 2**20), ("1.5k", 1500), ("2tb", 2 * 10**12)],
)
def test_sizes(text: str, wanted: int) -> None:
    assert size(text) == wanted


@pytest.mark.parametrize("text", ["", "GB", "-1", "20 GB", "1e3", "20XB", "20GB\n"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no size"):
        size(text)


@given(st.text(max_size=12))
def test_any_text_is_a_value_or_refused(text: str) -> None:
    for parse in (duration, size, names):
        with suppress(typer.BadParameter):
            parse(text)


def test_names_are_split_and_trimmed() -> None:
    assert names("setup, call") == {"setup", "call"}


def test_options_come_before_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KODOU_PORT", "1")
    assert load_settings(port=2).port == 2
    assert load_settings(port=None).port == 1


def test_a_bad_option_is_named_as_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsRefused, match=r"^--port: .*65535"):
        load_settings(port=70_000)
    monkeypatch.setenv("KODOU_PORT", "70000")
    with pytest.raises(SettingsRefused, match=r"^KODOU_PORT: .*65535"):
        load_settings()


def test_a_list_variable_that_is_no_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KODOU_BASE_IMAGES", "python:3.12")
    with pytest.raises(SettingsRefused, match="base_images"):
        load_settings()


def test_a_data_dir_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsRefused, match=r"cannot make the data directory .*--data-dir or KODOU_DATA_DIR"):
        open_data_dir(load_settings(data_dir=tmp_path / "file" / "data"))


def test_a_data_dir_of_another_user_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SettingsRefused, match=r"cannot write to the data directory .*run as its owner \(\w+\)"):
        open_data_dir(load_settings(data_dir=tmp_path))


def test_a_new_data_dir_can_be_traversed_and_not_listed(tmp_path: Path) -> None:
    open_data_dir(load_settings(data_dir=tmp_path / "data"))
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o711

"""[pacs] of site.toml, its night window, its rate."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward_client.pace import Rate, Window, opening
from fedward_client.receiver.settings import PacsSettings
from fedward_client.site import Site
from fedward_common.errors import SettingsError


def pacs(folder: Path, text: str) -> PacsSettings:
    (folder / "site.toml").write_text(f"[pacs]\n{text}\n", "utf-8")
    return Site.open(folder).pacs


def test_a_site_without_the_section_has_no_archive(tmp_path: Path) -> None:
    settings = Site.open(tmp_path).pacs
    assert (settings.host, settings.url, settings.listen_host) == ("", "", "")
    assert settings.window is None
    assert settings.bytes_per_minute is None


def test_a_dimse_archive(tmp_path: Path) -> None:
    settings = pacs(
        tmp_path,
        'host = "pacs.example"\nport = 11113\nae_title = " ARCHIVE "\nallowed = ["US1", "US1"]\n'
        'window = "20:00-06:30"\nmib_per_minute = 60\nmax_object_mib = 3\nmin_free_mib = 5\ntimeout_s = 7',
    )
    assert (settings.host, settings.port, settings.ae_title) == ("pacs.example", 11113, "ARCHIVE")
    assert settings.allowed == {"US1", "ARCHIVE"}, "the archive may send here too"
    assert settings.window is not None
    assert (str(settings.window.opens), str(settings.window.closes)) == ("20:00:00", "06:30:00")
    assert settings.bytes_per_minute == 60 * 2**20
    assert (settings.max_object_bytes, settings.min_free_bytes, settings.timeout_s) == (3 * 2**20, 5 * 2**20, 7.0)


def test_files_are_those_of_the_hospitals_folder_and_are_not_told(tmp_path: Path) -> None:
    for name in ("ca.pem", "own.pem", "own.key", "token"):
        (tmp_path / name).touch()
    settings = pacs(
        tmp_path,
        'url = "https://pacs.example:8443/dicom-web/"\nca = "ca.pem"\ncertificate = "own.pem"\nkey = "own.key"\n'
        'token_file = "token"',
    )
    assert settings.url == "https://pacs.example:8443/dicom-web"
    assert (settings.ca, settings.key, settings.token_file) == (
        tmp_path / "ca.pem",
        tmp_path / "own.key",
        tmp_path / "token",
    )
    assert "own.key" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('host = "a"\nurl = "https://a/b"', ["[pacs] host and url", "once"]),
        ('host = "a"', ["[pacs] ae_title is missing"]),
        ('host = "a"\nae_title = "A"\nretrieve = "move"', ["listen_host"]),
        ('retrieve = "fetch"', ["[pacs] retrieve", "'get' or 'move'", "'fetch'"]),
        ("port = 0", ["[pacs] port", "1"]),
        ("port = 65536", ["[pacs] port", "65535"]),
        ('port = "104"', ["[pacs] port"]),
        ('ae_title = "A\\\\B"', ["ae_title", "AE title", "16"]),
        ('ae_title = "ABCDEFGHIJKLMNOPQ"', ["ae_title", "16"]),
        ('allowed = ["  "]', ["allowed", "AE title"]),
        ('allowed = ["Ä"]', ["allowed", "ASCII"]),
        ('own_ae_title = ""', ["own_ae_title"]),
        ('url = "pacs.example/dicom-web"', ["url", "https://"]),
        ('url = "ftp://pacs.example"', ["url", "https://"]),
        ('url = "https://pacs.example:x/"', ["url", "https://"]),
        ('url = "https://me:secret@pacs.example/"', ["token_file"]),
        ('url = "https://pacs.example/?a=b"', ["root"]),
        ('ca = "nowhere.pem"', ["ca names no file"]),
        ('certificate = "site.toml"', ["certificate and key"]),
        ('ca = "site.toml"\nlisten_host = "127.0.0.1"', ["certificate and key"]),
        ('url = "http://pacs.example/"\ntoken_file = "site.toml"', ["in clear", "https://"]),
        ('window = "20-6"', ["window", "20:00-06:00"]),
        ('window = "24:00-06:00"', ["window", "20:00-06:00"]),
        ('window = "06:00-06:00"', ["never open"]),
        ("mib_per_minute = -1", ["mib_per_minute"]),
        ("max_associations = 0", ["max_associations"]),
        ("timeout_s = 0", ["timeout_s"]),
        ("hots = 3", ["[pacs] hots is not a setting", "host", "window"]),
    ],
)
def test_what_is_wrong_is_said_in_words(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        pacs(tmp_path, text)
    message = str(caught.value)
    assert message.startswith("site.toml: [pacs]")
    assert all(word in message for word in words), message
    assert "secret" not in message
    assert "\n" not in message


def test_a_token_in_clear_stays_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    assert pacs(tmp_path, 'url = "http://127.0.0.1:8042/dicom-web"\ntoken_file = "token"').token_file is not None


# The window ----------------------------------------------------------------------------------------------------------

times = st.times().map(lambda at: at.replace(microsecond=0, tzinfo=None))
moments = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1))


@pytest.mark.parametrize(
    ("window", "now", "expected"),
    [
        (("20:00", "06:00"), "2026-05-04 19:59", "2026-05-04 20:00"),
        (("20:00", "06:00"), "2026-05-04 20:00", None),
        (("20:00", "06:00"), "2026-05-05 05:59", None),
        (("20:00", "06:00"), "2026-05-05 06:00", "2026-05-05 20:00"),
        (("12:00", "13:00"), "2026-05-05 12:30", None),
        (("12:00", "13:00"), "2026-05-05 13:00", "2026-05-06 12:00"),
        (("12:00", "13:00"), "2026-12-31 23:59", "2027-01-01 12:00"),
    ],
)
def test_when_the_window_opens(window: tuple[str, str], now: str, expected: str | None) -> None:
    opens, closes = (datetime.strptime(text, "%H:%M").time() for text in window)
    found = opening(Window(opens=opens, closes=closes), datetime.fromisoformat(now))
    assert found == (None if expected is None else datetime.fromisoformat(expected))


@given(opens=times, closes=times, now=moments)
def test_it_opens_within_a_day_at_its_hour_and_is_open_then(opens: object, closes: object, now: datetime) -> None:
    window = Window(opens=opens, closes=closes)  # type: ignore[arg-type]
    found = opening(window, now)
    if found is not None:
        assert timedelta(0) < found - now <= timedelta(days=1)
        assert found.time() == window.opens
        assert window.opens == window.closes or opening(window, found) is None


def test_without_a_window_it_is_always_open() -> None:
    assert opening(None, datetime(2026, 1, 1)) is None


# The rate ------------------------------------------------------------------------------------------------------------


def test_what_was_fetched_is_paid_for_before_the_next() -> None:
    rate = Rate(60)  # a byte a second
    assert rate.wait_s(100.0) == 0
    rate.spend(30, 100.0)
    assert rate.wait_s(110.0) == 20  # the ten seconds that the transfer took count
    assert rate.wait_s(200.0) == 0
    rate.spend(10, 200.0)
    assert rate.wait_s(200.0) == 10, "time in which nothing was fetched is not saved up"


def test_no_rate_no_wait() -> None:
    rate = Rate(None)
    rate.spend(10**12, 0.0)
    assert rate.wait_s(0.0) == 0


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 1000)), max_size=20))
def test_the_average_is_never_above_the_rate(transfers: list[tuple[int, float]]) -> None:
    rate, clock, sent = Rate(10**6), 0.0, 0
    for size, pause in transfers:
        clock += rate.wait_s(clock)
        assert sent <= clock / 60 * 10**6 * (1 + 1e-9) + 1e-3
        rate.spend(size, clock)
        sent += size
        clock += pause

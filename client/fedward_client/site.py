"""A hospital's folder: where its data and labels are, what it keeps to itself, and the key behind every pseudonym.

A folder of DICOM files with a `labels.csv` is a site as it stands, and so is a BIDS folder with its participants.tsv.
An optional `site.toml` in it changes the defaults:

    [site]     name, state       the name that the hub knows; the folder that Fedward writes to
    [data]     folder, patient, modality    where the images are; for files that do not say: whose they are, and of what
    [labels]   file, patient, label, words, …    the label table, its columns, its words (`label_settings`)
    [series]   files, map           recordings of the site's own devices (`column_settings`)
    [table]    files, map           tables of patients, a row each or several (`column_settings`)
    [masks]    files, image, structures    where structures are in images (`mask_settings`)
    [boxes]    file, image, …     the table of where findings are in images (`box_settings`)
    [privacy]  min_cell, opt_out    counts below this never leave; the list of patients who take no part
    [policy]   outputs, max_update_norm, status    what may leave at all; with nothing named, nothing does
    [limits]   threads, spool_mib, …        processor threads for training; the sizes of spool and caches
    [pacs]     host, url, …                 the hospital's archive, for `fedward site receive` (`receiver.settings`)
    [metrics]  textfile            the folder where Prometheus's node_exporter finds this site's metrics
    [log]      format              "text" or "json"

Nothing here reads an image, and nothing here ever replaces a key that is there.
"""

import contextlib
import hmac
import math
import os
import re
import secrets
import tomllib
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedward_client import box_settings, column_settings, label_settings, mask_settings
from fedward_client.box_settings import BoxesSection, BoxSettings
from fedward_client.column_settings import ColumnSettings, ColumnsSection
from fedward_client.intake import bids_root
from fedward_client.intake.bids_names import PARTICIPANTS
from fedward_client.intake.columns import TableMap
from fedward_client.intake.series_map import SeriesMap
from fedward_client.label_settings import LabelSettings, LabelsSection
from fedward_client.mask_settings import MaskSettings, MasksSection
from fedward_client.pace import Window, read_window
from fedward_client.receiver.settings import PacsSection, PacsSettings, checked
from fedward_common import pki
from fedward_common.errors import SettingsError
from fedward_common.logs import Format

SETTINGS = "site.toml"
STATE = ".fedward"
OPT_OUT = "opt-out.txt"
BIDS_SUBJECT = "(?:^|/)sub-([0-9A-Za-z+]+)[_/]"
KEY = "site.key"
KEY_BYTES = 32
_AFTER_KEY = ("signing.key", "catalog.sqlite", "ledger.sqlite")  # in the state folder: where one is, the key was made
LINK = "link"
SPOOL = "spool"
PSEUDONYM_HEX = 32  # 128 bits of the HMAC: no two of a hospital's patients meet by chance

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_Text = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _SiteSection(_Section):
    name: _Text | None = None
    state: _Text | None = None


class _DataSection(_Section):
    folder: _Text = "."
    patient: _Text = BIDS_SUBJECT
    modality: Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{0,16}$")] = ""


class _PrivacySection(_Section):
    min_cell: Annotated[int, Field(ge=1)] = 5
    opt_out: _Text | None = None


Output = Literal["counts", "statistics", "update", "evaluation", "local_model"]


class _PolicySection(_Section):
    outputs: Annotated[tuple[Output, ...], Field(strict=False)] = ()  # TOML has lists, no tuples
    max_update_norm: Annotated[float, Field(gt=0.0)] = math.inf  # TOML has no none
    status: bool = True


class _LimitsSection(_Section):
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    spool_mib: Annotated[int, Field(ge=1)] = 4096
    cache_mib: Annotated[int, Field(ge=0)] = 0  # TOML has no none
    min_free_mib: Annotated[int, Field(ge=0)] = 1024


class _LinkSection(_Section):
    window: str = ""
    mib_per_minute: Annotated[int, Field(ge=0)] = 0  # TOML has no none


class _MetricsSection(_Section):
    textfile: str = ""  # TOML has no none


class _LogSection(_Section):
    format: Format = "text"


class _Settings(_Section):
    site: _SiteSection = _SiteSection()
    data: _DataSection = _DataSection()
    labels: LabelsSection = LabelsSection()
    series: ColumnsSection = ColumnsSection()
    table: ColumnsSection = ColumnsSection()
    masks: MasksSection = MasksSection()
    boxes: BoxesSection = BoxesSection()
    privacy: _PrivacySection = _PrivacySection()
    policy: _PolicySection = _PolicySection()
    limits: _LimitsSection = _LimitsSection()
    link: _LinkSection = _LinkSection()
    pacs: PacsSection = PacsSection()
    metrics: _MetricsSection = _MetricsSection()
    log: _LogSection = _LogSection()


@dataclass(frozen=True, kw_only=True)
class Site:
    """One hospital. Paths are absolute; `state` may not exist yet (see `ensure_state`)."""

    name: str
    folder: Path
    data: Path
    labels: LabelSettings
    patient_pattern: str = BIDS_SUBJECT  # a regular expression on a file's path, whose first group is the patient's id
    modality: str = ""  # of files that do not say
    series: ColumnSettings[SeriesMap] | None = None  # recordings of the site's own devices
    table: ColumnSettings[TableMap] | None = None  # tables of patients
    masks: MaskSettings | None = None  # where structures are in images
    boxes: BoxSettings | None = None  # where findings are in images
    bids: bool = False  # whether `data` is a folder in the Brain Imaging Data Structure
    state: Path
    min_cell: int = 5
    opt_out: Path | None = None  # where the list of patients who take no part is, or will be
    opt_out_is_there: bool = False  # when the site was opened; what was there must not go
    outputs: frozenset[Output] = frozenset()  # what may leave: an empty policy refuses everything
    max_update_norm: float | None = None  # L2 norm of an update minus the model it started from; None: not clipped
    tells_status: bool = True  # whether the hub hears how the site is, where anything may leave
    threads: int = 0  # for training; 0: all that the process may use
    spool_bytes: int = 4096 * 2**20
    cache_bytes: int | None = None  # all caches of studies' images together; None: as the disk allows
    min_free_bytes: int = 1024 * 2**20  # of the state folder's disk, that no cache takes
    link_window: Window | None = None  # in which models travel; None: at all hours
    link_bytes_per_minute: int | None = None
    pacs: PacsSettings = field(default_factory=PacsSettings)
    metrics: Path | None = None  # the folder of Prometheus's text files; None: no metrics
    log_format: Format = "text"

    @classmethod
    def open(cls, folder: Path, *, state: Path | None = None) -> "Site":
        """The site of a folder; `state` wins over [site] state. Raises SettingsError in words; writes nothing."""
        folder = _existing_folder(folder)
        settings = _read_settings(folder / SETTINGS)
        data = (folder / settings.data.folder).resolve()
        if not data.is_dir():
            raise SettingsError(f"{SETTINGS}: [data] folder is no folder that exists; give the folder of the images")
        opt_out = _opt_out(settings.privacy, folder)
        return cls(
            name=_checked_name(settings.site.name, folder),
            folder=folder,
            data=data,
            patient_pattern=_pattern(settings.data.patient),
            modality=settings.data.modality,
            bids=(bids := bids_root.is_bids(data)),
            labels=label_settings.checked(settings.labels, folder, SETTINGS, data / PARTICIPANTS if bids else None),
            series=column_settings.series(settings.series, folder, SETTINGS),
            table=column_settings.table(settings.table, folder, SETTINGS),
            masks=mask_settings.checked(settings.masks, SETTINGS),
            boxes=box_settings.checked(settings.boxes, folder, SETTINGS),
            state=(state if state is not None else folder / (settings.site.state or STATE)).absolute(),
            min_cell=settings.privacy.min_cell,
            opt_out=opt_out,
            opt_out_is_there=opt_out.is_file(),
            outputs=frozenset(settings.policy.outputs),
            max_update_norm=norm if math.isfinite(norm := settings.policy.max_update_norm) else None,
            tells_status=settings.policy.status,
            threads=settings.limits.threads,
            spool_bytes=settings.limits.spool_mib * 2**20,
            cache_bytes=settings.limits.cache_mib * 2**20 or None,
            min_free_bytes=settings.limits.min_free_mib * 2**20,
            link_window=read_window(settings.link.window, f"{SETTINGS}: [link]"),
            link_bytes_per_minute=settings.link.mib_per_minute * 2**20 or None,
            pacs=checked(settings.pacs, folder),
            metrics=folder / settings.metrics.textfile if settings.metrics.textfile else None,
            log_format=settings.log.format,
        )

    @property
    def link(self) -> Path:
        """The network side's own folder: its key, the hub's card, what it has not delivered yet."""
        return self.state / LINK

    @property
    def spool(self) -> Path:
        """The one folder that both sides see."""
        return self.state / SPOOL

    def ensure_state(self) -> Path:
        """The state folder, made (mode 0700) where it is not there. Raises SettingsError where it cannot be written."""
        try:
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        with contextlib.suppress(PermissionError):  # somebody else's folder: then it is theirs to protect
            self.state.chmod(0o700)  # nobody else on this machine may read what the hospital keeps
        if not os.access(self.state, os.W_OK | os.X_OK):
            raise self._unwritable(PermissionError(None, "Permission denied"))
        return self.state

    @cached_property
    def key(self) -> bytes:
        """32 bytes from the operating system, made at first use and never again: pseudonyms and splits hang on them.

        Raises SettingsError when the key's file cannot be written, can be read by others, is not 32 bytes long, or is
        not there while what came after it is.
        """
        path = self.ensure_state() / KEY
        # asked first: another process may make the key, and then what comes after it
        is_new = not any((self.state / name).exists() for name in _AFTER_KEY)
        try:
            if is_new and not path.exists():
                _make_key(path)
        except OSError as error:
            raise self._unwritable(error) from None
        key = pki.read_private(path)
        if len(key) != KEY_BYTES:
            raise SettingsError(
                f"{KEY} in the state folder holds {len(key)} bytes instead of {KEY_BYTES}: restore it from a backup, "
                "for without it every pseudonym and every split changes; it was not touched"
            )
        return key

    def pseudonym(self, kind: str, text: str) -> str:
        """A name for `text` that only this site can make: 32 hex digits of HMAC-SHA256 under the site's key."""
        return _pseudonym(self.key, kind, text)

    def patient_in(self, path: str) -> str:
        """Whose a file is, as its path below the data folder says (with "/"); "" where it does not."""
        found = re.search(self.patient_pattern, path)
        return found[1] or "" if found is not None else ""

    def patient_of(self, written: str) -> str:
        """The patient id that somebody wrote down: in BIDS "sub-01" is "01", as in paths; anything else is itself."""
        return (self.patient_in(f"{written}/") or written) if self.bids else written

    def _unwritable(self, error: OSError) -> SettingsError:
        return SettingsError(
            f"the state folder of site '{self.name}' cannot be used ({error.strerror}); "
            f"give a folder that can be written to with --state or [site] state in {SETTINGS}"
        )


@lru_cache(4096)  # a series has hundreds of files of one patient, study and accession number
def _pseudonym(key: bytes, kind: str, text: str) -> str:
    # surrogatepass: file names need not be UTF-8, and every name must give bytes of its own
    message = f"{kind}\x1f{text}".encode("utf-8", "surrogatepass")
    return hmac.digest(key, message, "sha256").hex()[:PSEUDONYM_HEX]


def site_folders(root: Path) -> list[Path]:
    """The folders of a folder of sites, by name: every folder in `root` whose name has no leading dot."""
    root = _existing_folder(root)
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise SettingsError(f"the folder {root} holds no hospital's folder; each hospital is one folder in it")
    return folders


def _make_key(path: Path) -> None:
    """Write a new key under a name of its own and link it to `path`: of two processes at once, one wins for both."""
    temporary = path.with_name(f"{KEY}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def _existing_folder(folder: Path) -> Path:
    if not folder.exists():
        raise SettingsError(f"the folder {folder} does not exist; give the folder that holds the hospital's images")
    if not folder.is_dir():
        raise SettingsError(f"{folder} is a file; give the folder that holds the hospital's images")
    return folder.resolve()


def _pattern(text: str) -> str:
    """A regular expression with a group. Raises SettingsError for anything else."""
    try:
        if re.compile(text).groups < 1:
            raise SettingsError(
                f"{SETTINGS}: [data] patient has no group: put the part of the path that is the patient's id in "
                "parentheses, for example '^([^/]+)/' for the first folder"
            )
    except re.error as error:
        raise SettingsError(f"{SETTINGS}: [data] patient is no regular expression: {error}") from None
    return text


def _opt_out(section: _PrivacySection, folder: Path) -> Path:
    file = folder / (section.opt_out or OPT_OUT)
    if section.opt_out is not None and not file.is_file():
        raise SettingsError(f"{SETTINGS}: [privacy] opt_out names no file that exists; give the list, an empty one too")
    return file


def _checked_name(name: str | None, folder: Path) -> str:
    name = name if name is not None else _slug(folder.name)
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{SETTINGS}: a site's name is 1 to 63 of a-z, 0-9 and '-', and does not begin with '-'; "
            f"set [site] name (now '{name}')"
        )
    return name


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].rstrip("-")


def _read_settings(path: Path) -> _Settings:
    try:
        return _Settings.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return _Settings()
    except OSError as error:
        raise SettingsError(f"{SETTINGS} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{SETTINGS} is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{SETTINGS} is not TOML: {error}") from None
    except ValidationError as error:
        raise SettingsError(_in_words(error)) from None


def _in_words(error: ValidationError) -> str:
    """One sentence on the first thing that is wrong with the settings: the key, and what would be valid."""
    first: Any = error.errors(include_url=False)[0]
    section, *rest = (str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{SETTINGS}: {_not_a_setting(section, rest)}"
    return f"{SETTINGS}: [{section}] {'.'.join(rest)}: {first['msg']}, not {first['input']!r}"


def _not_a_setting(section: str, rest: list[str]) -> str:
    sections = _Settings.model_fields
    if not rest:
        return f"[{section}] is not known; known are {', '.join(f'[{name}]' for name in sections)}"
    keys = type(sections[section].default).model_fields
    return f"[{section}] {rest[0]} is not a setting; [{section}] takes {', '.join(keys)}"

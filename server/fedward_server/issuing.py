"""A hub's authorities: the root, which is kept offline, and those below it, which issue certificates every day.

    ROOT/root.key          made by `fedward hub init`; belongs on a medium of its own, away from this machine
    keys/root.pem          the root's certificate: what sites trust
    keys/root.crl          the root's list of authorities taken back, for nginx and sites; made with each authority
    keys/issuing/0001.key  an authority below it, with 0001.pem; the highest number issues, older ones are still trusted

With a new authority nothing changes for sites: certificates of the one before hold until they end, and are renewed
below the new one by then. Every authority has a list of what it took back, without which nginx trusts nothing of it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from fedward_common import certificates, pki
from fedward_common.certificates import Authority
from fedward_common.errors import SettingsError
from fedward_server.hub_settings import read_file
from fedward_server.register import CertificateRow, Register

ROOT_KEY = "root.key"
ROOT_DAYS, ISSUING_DAYS = 20 * 365, 3 * 365
ENDS_SOON = timedelta(days=180)  # of an authority: whoever holds the root's key has to come
LIST_DAYS = 7  # of an authority's list; `fedward hub up` makes it anew every day
_NAME = 50  # characters of a hub's name in an authority's, whose common name has 64 at most


@dataclass(frozen=True, slots=True)
class Issuing:
    """The authorities in a hub's folder of keys."""

    keys: Path

    @property
    def root(self) -> Path:
        """The root's certificate."""
        return self.keys / "root.pem"

    @property
    def _folder(self) -> Path:
        return self.keys / "issuing"

    @property
    def root_list(self) -> Path:
        """The root's list of the authorities that count no more."""
        return self.keys / "root.crl"

    # Authorities -----------------------------------------------------------------------------------------------------

    def make(self, hub: str, root: Path) -> None:
        """Make a root, its key in the folder `root`, which is there, and the first authority below it."""
        authority = certificates.make_authority(f"{hub[:_NAME]} root", days=ROOT_DAYS, below=1)
        key, certificate = certificates.authority_pem(authority)
        pki.write_private(root / ROOT_KEY, key)
        pki.write_public(self.root, certificate)
        self._folder.mkdir(mode=0o700)
        self._begin(hub, authority, {})

    def begin_next(self, hub: str, root: Path, *, distrust: bool) -> Authority:
        """Make the next authority with the root's key, which is in the folder `root`; gives it.

        With `distrust`, those before are trusted no more, and so no certificate that they issued. Raises SettingsError
        where the key is not the root's.
        """
        authority = certificates.load_authority(pki.read_private(root / ROOT_KEY), read_file(self.root))
        now = datetime.now(UTC)
        taken_back = {each.serial_number: each.revocation_date_utc for each in self._taken_back()}
        if distrust:
            taken_back |= {each.certificate.serial_number: now for each in self.all()}
        return self._begin(hub, authority, taken_back)

    def _begin(self, hub: str, root: Authority, taken_back: dict[int, datetime]) -> Authority:
        now = datetime.now(UTC)
        made = certificates.issue_authority(root, f"{hub[:_NAME]} {now:%Y-%m-%d}", days=ISSUING_DAYS)
        ends = made.certificate.not_valid_after_utc
        key, certificate = certificates.authority_pem(made)
        number = 1 + max((int(path.stem) for path in self._folder.glob("*.key")), default=0)  # one that was cut off too
        pki.write_private(self._folder / f"{number:04}.key", key)
        pki.write_public(self._folder / f"{number:04}.pem", certificate)  # with which it is there
        pki.write_public(self.root_list, certificates.revocations(root, taken_back, ends=ends))  # may name all others
        return made

    def all(self) -> list[Authority]:
        """The authorities that have not expired, the oldest first. Raises SettingsError where a file is damaged."""
        now = datetime.now(UTC)
        return [
            certificates.load_authority(pki.read_private(path.with_suffix(".key")), read_file(path))
            for path in sorted(self._folder.glob("*.pem"))
            if certificates.expires(read_file(path)) > now
        ]

    def current(self) -> Authority:
        """The one that issues. Raises SettingsError where none is left."""
        found = self.all()
        if not found and not any(self._folder.glob("*.pem")):
            raise SettingsError("keys/issuing is missing: restore it from a backup")
        if not found:
            raise SettingsError(
                "the hub's issuing authority has expired: fetch the root's key, then `fedward hub rotate`"
            )
        return found[-1]

    def _taken_back(self) -> x509.CertificateRevocationList:
        return x509.load_pem_x509_crl(read_file(self.root_list))

    # What it issues --------------------------------------------------------------------------------------------------

    def for_server(self, hosts: list[str], *, days: int) -> tuple[bytes, bytes]:
        """A new key (PEM) and a server's certificate with its chain (PEM)."""
        authority = self.current()
        key, certificate = certificates.issue_server(authority, hosts, days=days)
        return key, certificate + certificates.pem(authority.certificate)

    def for_site(self, site: str, request: str, *, days: int) -> tuple[CertificateRow, str]:
        """A site's certificate: what the register is to hold of it, and the certificate with its chain (PEM).

        Raises RecordError for a `request` that is none.
        """
        authority = self.current()
        made = certificates.issue_client(authority, site, certificates.read_request(request), days=days)
        row = CertificateRow(
            serial=f"{made.serial_number:x}",
            site=site,
            issuer=certificates.fingerprint(authority.certificate),
            issued=datetime.now(UTC).isoformat(timespec="milliseconds"),
            ends=made.not_valid_after_utc.isoformat(),
        )
        return row, certificates.pem(made, authority.certificate).decode()

    def lists(self, register: Register) -> bytes:
        """What every authority took back (PEM), the root too."""
        rows = [row for row in register.certificates() if row.revoked is not None]
        ends = datetime.now(UTC) + timedelta(days=LIST_DAYS)
        lists = [read_file(self.root_list)]
        for authority in self.all():
            own = certificates.fingerprint(authority.certificate)
            revoked = {
                int(row.serial, 16): datetime.fromisoformat(row.revoked)
                for row in rows
                if row.issuer == own and row.revoked is not None
            }
            lists.append(certificates.revocations(authority, revoked, ends=ends))
        return b"".join(lists)

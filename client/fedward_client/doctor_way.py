"""The second half of `fedward doctor --site`: the way to the hub, step by step, as the network process takes it.

What is sent is `GET /health`, nothing of the site; then, where all that went well, the site's certificate and
`GET /v1/site/studies`, which a hub that shut the site out refuses.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedward_client import probe, reach
from fedward_client.credentials import Credentials
from fedward_client.hub_api import HubApi
from fedward_client.probe import Attempt, Step
from fedward_common.cards import HubCard
from fedward_common.doctor import Finding
from fedward_common.errors import LinkError, SettingsError
from fedward_common.joining import SHOWN_AHEAD
from fedward_common.site_messages import STUDIES

SKEW_S = 2.0  # a Date header has whole seconds, and takes its time
EXPIRES_SOON = timedelta(days=14)

_NAMES: Mapping[Step, str] = {
    "connect": "hub port",
    "tunnel": "proxy",
    "tls": "hub certificate",
    "answer": "hub answer",
}


def examine(path: Path) -> Iterator[Finding]:
    """Every step to the hub whose card is in `path`, up to the first that fails."""
    try:
        card = HubCard.read(path)
        proxy = probe.proxy_of(card.address)
    except SettingsError as error:
        yield Finding.refused("hub card", error)
        return
    except LinkError as error:
        yield Finding.refused("proxy", error)
        return
    yield Finding(name="hub card", status="ok", found=f"hub '{card.hub}' at {card.address}")
    found: list[Finding] = []
    if card.issuer is not None:
        found.append(own_certificate("certificate", path.parent))
        yield found[-1]
    yield (resolved := name_of(card, proxy))
    if resolved.status != "ok":
        return
    for step in steps(card, probe.attempt(card.address, card.ca, card.distrusted)):
        found.append(step)
        yield step
    if card.issuer is not None and all(finding.status != "fail" for finding in found):
        yield membership("membership", card, Credentials(path.parent))


def name_of(card: HubCard, proxy: str | None) -> Finding:
    """Whether the first name on the way is known: the proxy's, or the hub's."""
    host = probe.host_of(proxy or card.address)
    try:
        return Finding(name="DNS", status="ok", found=f"{host} is {', '.join(probe.resolve(host))}")
    except OSError as error:
        found, advice = reach.diagnose(error, card.address, card.ca)
        return Finding(name="DNS", status="fail", found=found, advice=advice)


def steps(card: HubCard, met: Attempt) -> Iterator[Finding]:
    """What an attempt met: a finding for each step that it took, the last one for what stopped it."""
    if met.proxy is None:
        yield Finding(name="proxy", status="ok", found=f"none is set for {card.host}")
    for step, name in _NAMES.items():
        if step == met.failed:
            assert met.error is not None
            found, advice = reach.diagnose(met.error, card.address, card.ca)
            where = "proxy port" if step == "connect" and met.proxy else name
            yield Finding(name=where, status="fail", found=found, advice=advice)
            break
        yield from _passed(step, name, card, met)
    if met.status is not None:
        yield clock(met.offset_s)


def own_certificate(name: str, link: Path) -> Finding:
    """Whether the certificate that the hub's gateway asks for is there and lasts."""
    advice = "ask the hub's operator for a code, then `fedward site join`"
    try:
        own = Credentials(link).certificate()
    except SettingsError as error:
        return Finding.refused(name, error)
    if own is None:
        return Finding(name=name, status="fail", found="this site has none of its hub yet", advice=advice)
    end, now = own.not_valid_after_utc, datetime.now(UTC)
    if end < now:
        return Finding(name=name, status="fail", found=f"it expired on {end:%Y-%m-%d}", advice=advice)
    if end - now > SHOWN_AHEAD:
        return Finding(name=name, status="ok", found=f"good until {end:%Y-%m-%d}; it is renewed by itself")
    advice = "keep the site up, which renews it; `fedward site log` says what stands in the way"
    return Finding(name=name, status="warn", found=f"it ends on {end:%Y-%m-%d}", advice=advice)


def membership(name: str, card: HubCard, credentials: Credentials) -> Finding:
    """Whether the hub's gateway takes the site's certificate, and the hub has not shut the site out."""
    try:
        with HubApi(card, credentials.show(probe.context(card.ca, card.distrusted))) as hub:
            hub.get(STUDIES)
    except (SettingsError, LinkError) as error:
        return Finding.refused(name, error)
    return Finding(name=name, status="ok", found=f"hub '{card.hub}' lets this site in")


def _passed(step: Step, name: str, card: HubCard, met: Attempt) -> Iterator[Finding]:
    match step:
        case "connect" if met.proxy is None:
            yield Finding(name=name, status="ok", found=f"{card.address} takes connections")
        case "tunnel" if met.proxy is not None:
            yield Finding(name=name, status="ok", found=f"{met.proxy} lets through to {card.address}")
        case "tls" if met.certificate is not None:
            yield _certificate(name, met.certificate.not_valid_after_utc)
        case "answer":
            yield Finding(name=name, status="ok", found=f"it answers (HTTP status {met.status})")


def _certificate(name: str, end: datetime) -> Finding:
    found = f"issued by the hub's own authority, good until {end:%Y-%m-%d}"
    if end - datetime.now(UTC) > EXPIRES_SOON:
        return Finding(name=name, status="ok", found=found)
    advice = "ask the hub's operator to restart the hub, which renews it"
    return Finding(name=name, status="warn", found=found, advice=advice)


def clock(offset_s: float | None) -> Finding:
    """Whether this machine's clock is the hub's, which is `offset_s` seconds ahead of it."""
    if offset_s is None:
        advice = "compare this machine's clock with another"
        return Finding(name="clock", status="warn", found="the hub's answer has no date", advice=advice)
    if abs(offset_s) < SKEW_S:
        return Finding(name="clock", status="ok", found="within two seconds of the hub's")
    found = f"this machine's clock is {abs(offset_s):.0f} s {'behind' if offset_s > 0 else 'ahead of'} the hub's"
    advice = "set it, best by NTP (timedatectl set-ntp true); runs go on, as the site signs with the hub's time"
    return Finding(name="clock", status="warn", found=found, advice=advice)

"""Sites whose updates were refused: each is told why with the next question, and left out when it happens too often.

Silence, a pause or a policy that keeps things home is no offence: only what came and was not fit to be aggregated is.
"""

from dataclasses import dataclass, field

OFFENCES = 3  # after so many a site trains no more in this run


@dataclass(slots=True)
class Quarantine:
    """The offences of a run, by site and round, with their reasons; goes on over a resume."""

    offences: dict[str, dict[int, str]] = field(default_factory=dict)

    def offend(self, site: str, number: int, reason: str) -> bool:
        """Take note of an update that was refused; whether the site is left out from now on."""
        self.offences.setdefault(site, {})[number] = reason
        return self.is_out(site)

    def is_out(self, site: str) -> bool:
        """Whether a site trains no more."""
        return len(self.offences.get(site, {})) >= OFFENCES

    def notice(self, site: str, number: int) -> str | None:
        """What a site is told with the question of a round, of the round before."""
        reason = self.offences.get(site, {}).get(number - 1)
        return None if reason is None else f"the update of round {number - 1} was refused: {reason}"

    def sentence(self, site: str) -> str:
        """Why a site was left out."""
        rounds = sorted(self.offences[site])
        named = ", ".join(map(str, rounds[:-1])) + f" and {rounds[-1]}"
        return f"{site}: left out since round {rounds[-1] + 1}, its updates of rounds {named} were refused"

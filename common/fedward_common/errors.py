"""One exception tree. Every message is a sentence that tells a person what to do next.

    FedwardError
    ├── UsageError         the command was called wrongly (exit code 2)
    ├── StudyError         a study file is wrong: line, key, value, what is valid
    ├── SettingsError      a site's or a hub's settings are wrong
    ├── DataError          a site's data cannot serve a study
    │   └── UnreadableFile   one file cannot be read; it goes to quarantine, the scan goes on
    │       └── UnfitImage     one image can be read and does not serve this study; another may take it
    ├── ModelError         a model is unknown, or its options are wrong
    ├── RecordError        what came over the wire is not what was agreed
    ├── CheckpointError    a checkpoint is torn, or another study's
    ├── RunError           a run cannot go on: quorum missed, worker died
    ├── AuditError         an audit log was changed, or cannot be written
    ├── PacsError          a hospital's archive cannot be reached, or refuses
    ├── PolicyError        a site's policy or approval does not let something leave
    └── LinkError          the hub cannot be reached, or does not accept this site
        └── RefusedError     the hub says no, in its own words: asking again changes nothing

Messages never hold a patient's identifier, nor a path inside a site's data folder.
"""

__all__ = [
    "AuditError",
    "CheckpointError",
    "DataError",
    "FedwardError",
    "LinkError",
    "ModelError",
    "PacsError",
    "PolicyError",
    "RecordError",
    "RefusedError",
    "RunError",
    "SettingsError",
    "StudyError",
    "UnfitImage",
    "UnreadableFile",
    "UsageError",
]


class FedwardError(Exception):
    """Base of everything that Fedward raises on purpose; `fedward` prints it without a traceback and exits 1."""

    exit_code = 1


class UsageError(FedwardError):
    """The command was called wrongly."""

    exit_code = 2


class StudyError(FedwardError):
    """A study file is wrong."""


class SettingsError(FedwardError):
    """A site's or a hub's settings are wrong."""


class DataError(FedwardError):
    """A site's data cannot serve a study."""


class UnreadableFile(DataError):  # noqa: N818 - named for what it is, one file in quarantine
    """One file cannot be read. Its message says why in words that hold no identifier and no path."""


class UnfitImage(UnreadableFile):
    """One image can be read, but does not serve this study. It is left out here and not put into quarantine."""


class ModelError(FedwardError):
    """A model is unknown, or its options are wrong."""


class RecordError(FedwardError):
    """What came over the wire is not what was agreed."""


class CheckpointError(FedwardError):
    """A checkpoint is torn, or belongs to another study."""


class RunError(FedwardError):
    """A run cannot go on."""


class AuditError(FedwardError):
    """An audit log was changed, or cannot be written."""


class PacsError(FedwardError):
    """A hospital's image archive cannot be reached, or does not give what it was asked for."""


class PolicyError(FedwardError):
    """A site's policy or its steward's approval does not let something leave."""


class LinkError(FedwardError):
    """The hub cannot be reached, or does not accept this site."""


class RefusedError(LinkError):
    """The hub says no, in its own words."""

from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Question(_message.Message):
    __slots__ = ("config", "parcel")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    PARCEL_FIELD_NUMBER: _ClassVar[int]
    config: str
    parcel: str
    def __init__(self, config: _Optional[str] = ..., parcel: _Optional[str] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("answer", "parcel", "refusal")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    PARCEL_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    answer: str
    parcel: str
    refusal: str
    def __init__(self, answer: _Optional[str] = ..., parcel: _Optional[str] = ..., refusal: _Optional[str] = ...) -> None: ...

class Heard(_message.Message):
    __slots__ = ("news",)
    NEWS_FIELD_NUMBER: _ClassVar[int]
    news: str
    def __init__(self, news: _Optional[str] = ...) -> None: ...

class Reported(_message.Message):
    __slots__ = ("report", "error")
    REPORT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    report: str
    error: str
    def __init__(self, report: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Nothing(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SiteStatus(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class Counted(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class SiteEvent(_message.Message):
    __slots__ = ("stage", "done", "total", "note", "site")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    stage: str
    done: int
    total: int
    note: str
    site: str
    def __init__(self, stage: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., note: _Optional[str] = ..., site: _Optional[str] = ...) -> None: ...

class Approval(_message.Message):
    __slots__ = ("study", "until")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    study: str
    until: str
    def __init__(self, study: _Optional[str] = ..., until: _Optional[str] = ...) -> None: ...

class Approved(_message.Message):
    __slots__ = ("digest", "error")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    digest: str
    error: str
    def __init__(self, digest: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("digest", "reason")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    digest: str
    reason: str
    def __init__(self, digest: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Withdrawal(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: str
    def __init__(self, error: _Optional[str] = ...) -> None: ...

class Forgotten(_message.Message):
    __slots__ = ("json", "error")
    JSON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    json: str
    error: str
    def __init__(self, json: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

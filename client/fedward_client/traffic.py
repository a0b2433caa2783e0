"""What a site's network side counts since it started: bytes to and from the hub, and when the hub answered last."""

import threading
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Traffic:
    """Bytes of bodies, without what TLS and headers add. Several threads may count."""

    sent: int = 0
    received: int = 0
    heard: float | None = None  # seconds since 1970
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def passed(self, *, sent: int = 0, received: int = 0) -> None:
        """Count a request that the hub answered as it was wished."""
        with self._lock:
            self.sent += sent
            self.received += received
            self.heard = time.time()

    def numbers(self) -> dict[str, float | None]:
        """All of it, as JSON."""
        return {"sent": self.sent, "received": self.received, "heard": self.heard}

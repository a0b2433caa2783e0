"""The application that answers on the gateway's socket. Who calls, the gateway says, in headers that it alone sets.

Nobody but the gateway reaches the socket: it lies in the hub's folder, which is its owner's alone. What goes wrong is
one sentence, as {"error": …}, and nothing of what was sent is said again.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette import status
from starlette.exceptions import HTTPException

from fedward_common.errors import FedwardError, RecordError
from fedward_common.joining import CERTIFICATE, JOIN, Joined, JoinRequest, Renewal, Renewed
from fedward_server.dashboard.app import dashboard_app
from fedward_server.dashboard.frame import Frame
from fedward_server.hub import Hub
from fedward_server.joining import Joining, JoinRefusedError
from fedward_server.live import LiveRuns
from fedward_server.presence import PresenceWatch

SITE_HEADER, SERIAL_HEADER = "x-fedward-site", "x-fedward-certificate"


class NobodyError(FedwardError):
    """Whoever calls is no site of this hub (any more)."""


def make_app(hub: Hub) -> FastAPI:
    """The application of one hub. It opens the hub's database when it starts, and closes it when it ends."""
    store = hub.store()
    joining, presence = Joining(hub, store), PresenceWatch(hub, store)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with store, presence:
            yield

    app = FastAPI(title="Fedward hub", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    for error, code in _CODES.items():
        app.add_exception_handler(error, _told(code))
    app.add_exception_handler(RequestValidationError, _not_agreed)
    app.add_exception_handler(HTTPException, _http)

    def caller(request: Request) -> str:
        """The site that calls: enrolled, with a certificate of this hub's that was not taken back."""
        site, serial = request.headers.get(SITE_HEADER, ""), request.headers.get(SERIAL_HEADER, "")
        row = joining.register.certificate(serial.lower().lstrip("0"))  # none after a restore, where it is newer
        if site not in store.sites() or (row is not None and (row.site != site or row.revoked is not None)):
            raise NobodyError("this hub does not know this site, or took its certificate back: ask its operator")
        return site

    Caller = Annotated[str, Depends(caller)]  # noqa: N806 - a type

    @app.get(JOIN)
    def card() -> FileResponse:
        return FileResponse(hub.card, media_type="application/json")

    @app.post(JOIN)
    def join(asked: JoinRequest) -> Joined:
        return joining.ask(asked)

    @app.post(CERTIFICATE)
    def certificate(site: Caller, renewal: Renewal) -> Renewed:
        return joining.renew(site, renewal.request)

    if hub.settings.dashboard is not None:
        app.mount("", dashboard_app(Frame(hub, store, presence, LiveRuns(hub, store))))
    return app


def _told(code: int) -> Callable[[Request, Exception], JSONResponse]:
    def answer(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=code)

    return answer


def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, status_code=error.status_code)


def _not_agreed(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    where = ".".join(str(part) for part in error.errors()[0]["loc"] if isinstance(part, str))
    return JSONResponse({"error": f"what was sent is not what is agreed: {where}"}, status_code=400)


_CODES: dict[type[Exception], int] = {
    JoinRefusedError: status.HTTP_403_FORBIDDEN,
    NobodyError: status.HTTP_403_FORBIDDEN,
    RecordError: status.HTTP_400_BAD_REQUEST,
    FedwardError: status.HTTP_500_INTERNAL_SERVER_ERROR,
}

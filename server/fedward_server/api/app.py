"""The application that answers on the gateway's socket: what sites call, and the pages that people see.

Nobody but the gateway reaches the socket: it lies in the hub's folder, which is its owner's alone. What goes wrong is
one sentence, as {"error": …}, and nothing of what was sent is said again.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette import status
from starlette.exceptions import HTTPException

from fedward_common.errors import FedwardError, RecordError
from fedward_server.api.people.app import refused
from fedward_server.api.site_routes import NobodyError, not_agreed, site_routes
from fedward_server.dashboard.app import dashboard_app
from fedward_server.dashboard.frame import Frame
from fedward_server.hub import Hub
from fedward_server.joining import JoinRefusedError
from fedward_server.live import LiveRuns
from fedward_server.monitoring import metrics_told
from fedward_server.presence import PresenceWatch


def make_app(hub: Hub) -> FastAPI:
    """The application of one hub. It opens the hub's database when it starts, and closes it when it ends."""
    store = hub.store()
    presence, live = PresenceWatch(hub, store), LiveRuns(hub, store)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with store, presence, metrics_told(hub, store, presence, live):
            yield

    app = FastAPI(title="Fedward hub", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    for error, code in _CODES.items():
        app.add_exception_handler(error, _told(code))
    app.add_exception_handler(RequestValidationError, not_agreed)
    app.add_exception_handler(HTTPException, refused)
    app.include_router(site_routes(hub, store))
    if hub.settings.dashboard is not None:
        app.mount("", dashboard_app(Frame(hub, store, presence, live)))
    return app


def _told(code: int) -> Callable[[Request, Exception], JSONResponse]:
    def answer(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=code)

    return answer


_CODES: dict[type[Exception], int] = {
    JoinRefusedError: status.HTTP_403_FORBIDDEN,
    NobodyError: status.HTTP_403_FORBIDDEN,
    RecordError: status.HTTP_400_BAD_REQUEST,
    FedwardError: status.HTTP_500_INTERNAL_SERVER_ERROR,
}

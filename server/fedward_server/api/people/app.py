"""The application of the people's API, to be mounted at PATH beside the pages."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fedward_common import __version__
from fedward_common.errors import FedwardError
from fedward_server.api.people import PATH, audit, models, overview, results, runs, session, sites
from fedward_server.api.people.guard import Guard
from fedward_server.dashboard.frame import Frame

ROUTERS = (session.router, overview.router, sites.router, runs.router, results.router, models.router, audit.router)


def people_app(frame: Frame) -> FastAPI:
    """The application. What goes wrong is one sentence, as {"error": …}; nothing of what was sent is said again."""
    app = FastAPI(
        title=f"Fedward hub {frame.hub.name}",
        version=__version__,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        root_path=PATH,
    )

    def failed(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, FedwardError)
        return JSONResponse({"error": frame.words(error)}, status_code=409)

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, _not_agreed)
    app.add_exception_handler(FedwardError, failed)
    guard = Guard(frame)
    for router in ROUTERS:
        app.include_router(router(guard))
    return app


def refused(_request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that was refused."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, status_code=error.status_code)


def _not_agreed(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    return JSONResponse({"error": f"{where}: {first['msg']}; /api/v1/openapi.json says what is asked"}, 422)

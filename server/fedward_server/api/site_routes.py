"""What sites call, under /v1: to join, and, certified, to read what is theirs and tell how they are.

Who calls, the gateway says, in headers that it alone sets. A site names itself nowhere in what it sends, so that it
reads and writes only its own.
"""

import hashlib
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ValidationError
from starlette import status

from fedward_common.certificates import CLOCKS_DIFFER
from fedward_common.errors import FedwardError, RecordError
from fedward_common.joining import CERTIFICATE, JOIN, Joined, JoinRequest, Renewal, Renewed
from fedward_common.site_messages import APPROVALS, STATUS, STUDIES, ApprovalsTold, SiteStatus
from fedward_server.approvals import Approvals
from fedward_server.hub import Hub
from fedward_server.joining import Joining
from fedward_server.site_news import SiteNews
from fedward_server.statuses import Statuses
from fedward_server.store import Store

SITE_HEADER, SERIAL_HEADER = "x-fedward-site", "x-fedward-certificate"
START_HEADER = "x-fedward-certificate-start"  # as OpenSSL writes times
_LONG_AGO = "Jan  1 00:00:00 1970 GMT"

Sent = TypeVar("Sent", bound=BaseModel)


class NobodyError(FedwardError):
    """Whoever calls is no site of this hub (any more)."""


def site_routes(hub: Hub, store: Store) -> APIRouter:
    """The routes of one hub, whose database is opened by whoever serves them."""
    router = APIRouter()
    joining, news = Joining(hub, store), SiteNews(hub, store)

    def caller(request: Request) -> str:
        """The site that calls: enrolled, with a certificate of this hub's that was not taken back."""
        known = store.sites().get(request.headers.get(SITE_HEADER, ""))
        if known is None or not joining.register.holds(known, _serial(request), _issued(request)):
            raise NobodyError("this hub does not know this site, or took its certificate back: ask its operator")
        return known.site

    Caller = Annotated[str, Depends(caller)]  # noqa: N806 - a type

    @router.get(JOIN)
    def card() -> FileResponse:
        return FileResponse(hub.card, media_type="application/json")

    @router.post(JOIN)
    def join(asked: JoinRequest) -> Joined:
        return joining.ask(asked)

    @router.post(CERTIFICATE)
    def certificate(site: Caller, request: Request, renewal: Renewal) -> Renewed:
        return joining.renew(site, _serial(request), renewal.request)

    @router.get(STUDIES)
    def studies(site: Caller, request: Request) -> Response:
        body = news.of(site).model_dump_json().encode()
        tag = {"etag": f'"{hashlib.sha256(body).hexdigest()}"'}
        if request.headers.get("if-none-match") == tag["etag"]:  # asked every few seconds, and mostly the same
            return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=tag)
        return Response(body, media_type="application/json", headers=tag)

    @router.post(APPROVALS, status_code=status.HTTP_204_NO_CONTENT)
    def approvals(site: Caller, told: Annotated[ApprovalsTold, Depends(_body(ApprovalsTold))]) -> None:
        if not news.asks(site, {each.digest for each in told.approvals}):
            raise RecordError("no run of this hub asks this site for one of these studies: ask its operator")
        Approvals(store).tell(site, told.approvals)

    @router.post(STATUS, status_code=status.HTTP_204_NO_CONTENT)
    def how_it_is(site: Caller, told: Annotated[SiteStatus, Depends(_body(SiteStatus))]) -> None:
        Statuses(store).tell(site, told)

    @router.api_route("/v1/{rest:path}", methods=["GET", "POST"])
    def nothing() -> Response:
        """What is not here is not looked for among people's pages."""
        return JSONResponse({"error": "this hub has nothing there"}, status_code=status.HTTP_404_NOT_FOUND)

    return router


def _serial(request: Request) -> str:
    """The serial number of the caller's certificate, as the register has it."""
    return request.headers.get(SERIAL_HEADER, "").lower().lstrip("0")


def _issued(request: Request) -> datetime:
    """When the caller's certificate was issued (UTC)."""
    start = ssl.cert_time_to_seconds(request.headers.get(START_HEADER, _LONG_AGO))
    return datetime.fromtimestamp(start, UTC) + CLOCKS_DIFFER


def _body(kind: type[Sent]) -> Callable[[Request], Awaitable[Sent]]:
    """A request's body as a message. Read as JSON, as whose types it is strict: FastAPI reads Python's."""

    async def read(request: Request) -> Sent:
        try:
            return kind.model_validate_json(await request.body())
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False, include_context=False)) from None

    return read


def not_agreed(_request: Request, error: Exception) -> JSONResponse:
    """The answer to a body that is no message: where it is wrong, and nothing of what was sent."""
    assert isinstance(error, RequestValidationError)
    first: Any = error.errors()[0]
    known = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]
    where = ".".join(str(part) for part in known if isinstance(part, str))
    return JSONResponse(
        {"error": f"what was sent is not what is agreed: {where}"}, status_code=status.HTTP_400_BAD_REQUEST
    )

"""What guards the pages: the session's cookie, the headers of every answer, the check of every form.

A form counts when it comes from a page of the same session: the cookie is not sent from other sites (SameSite), the
browser says whence it comes (Sec-Fetch-Site), and the form holds what only the session's own pages know.
"""

import hmac

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedward_server.people import LONGEST_S, Session

COOKIE, LANGUAGE_COOKIE = "__Host-fedward", "__Host-fedward-language"
CLIENT_HEADER = "x-fedward-client"  # the browser's address, which the gateway alone sets
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Headers:
    """Middleware: the headers on every answer; nothing but files is kept by a browser."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does, with the headers."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if not scope["path"].startswith("/static/"):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self._app(scope, receive, guarded)


def client_of(request: Request) -> str:
    """Whose session it is: a browser at an address."""
    return f"{request.headers.get(CLIENT_HEADER, '')} {request.headers.get('user-agent', '')}"


def set_session(response: Response, token: str) -> None:
    """Give a browser its session's token."""
    response.set_cookie(COOKIE, token, max_age=int(LONGEST_S), secure=True, httponly=True, samesite="strict")


def clear_session(response: Response) -> None:
    """Take it back."""
    response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict")


def comes_from_here(request: Request) -> bool:
    """Whether a browser says that a request comes from a page of this hub; old ones do not say."""
    return request.headers.get("sec-fetch-site", "same-origin") in {"same-origin", "none"}


def asks_by_itself(request: Request) -> bool:
    """Whether a page asks without its person's doing: to stay up to date."""
    by_itself = "hx-request" in request.headers or request.headers.get("accept") == "text/event-stream"
    return request.method == "GET" and by_itself


def is_own_form(request: Request, session: Session, csrf: str) -> bool:
    """Whether a form is of this session's own pages."""
    return comes_from_here(request) and hmac.compare_digest(csrf.encode(), session.csrf.encode())

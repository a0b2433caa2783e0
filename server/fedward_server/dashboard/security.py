"""What guards the pages: the session's cookie, the headers of every answer, the check of every form.

A form counts when it comes from a page of the same session: the cookie is not sent from other sites (SameSite), the
browser says whence it comes (Sec-Fetch-Site), and the form holds what only the session's own pages know.
"""

import hmac
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

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


async def with_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Middleware: the headers on every answer; nothing but files is kept by a browser."""
    response = await answer(request)
    response.headers.update(HEADERS)
    if not request.url.path.startswith("/static/"):
        response.headers["Cache-Control"] = "no-store"
    return response


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


def is_own_form(request: Request, session: Session, csrf: str) -> bool:
    """Whether a form is of this session's own pages."""
    return comes_from_here(request) and hmac.compare_digest(csrf.encode(), session.csrf.encode())

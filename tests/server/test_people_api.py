"""The people's API by its requests: programs that log in, and what it says of itself."""

import threading

import pyotp
import pytest
from starlette.requests import Request

from fedward_common.joining import Invitation
from fedward_server.dashboard.security import asks_by_itself
from fedward_server.people import IDLE_S, People, Role
from fedward_server.testing import PASSWORD, Browser, Ground, Person


def test_a_program_logs_in_does_something_and_logs_out(ground: Ground) -> None:
    ground.secrets["ada"] = ground.people.add("ada", "operator", PASSWORD)
    program = ground.browser("fedward")
    login = {"name": "ada", "password": PASSWORD, "code": "000000"}
    refused = program.send("POST", "/api/v1/session", json=login)
    assert (refused.status_code, refused.json()) == (
        403,
        {"error": "name, password or digits are not right, or were used before"},
    )
    login["code"] = pyotp.TOTP(ground.secrets["ada"]).now()
    session = program.send("POST", "/api/v1/session", json=login)
    assert session.status_code == 201
    assert session.json().items() >= {"name": "ada", "role": "operator", "site": None}.items()
    assert program.get("/api/v1/session").json() == session.json()
    assert program.send("DELETE", "/api/v1/session").status_code == 403
    csrf = {"x-fedward-csrf": session.json()["csrf"]}
    assert program.send("DELETE", "/api/v1/session", headers=csrf).status_code == 204
    assert program.get("/api/v1/overview").status_code == 401


def test_another_page_cannot_log_somebody_in(ground: Ground) -> None:
    ground.secrets["ada"] = ground.people.add("ada", "operator", PASSWORD)
    login = {"name": "ada", "password": PASSWORD, "code": pyotp.TOTP(ground.secrets["ada"]).now()}
    answer = ground.browser().send("POST", "/api/v1/session", json=login, headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403


def test_strangers_who_log_in_take_a_bounded_part_of_the_hub(ground: Ground) -> None:
    browsers = [ground.browser() for _ in range(12)]
    start, found = threading.Barrier(len(browsers), timeout=30), list[tuple[int, bool]]()

    def tries(number: int, browser: Browser) -> None:
        login = {"name": f"nobody-{number}", "password": PASSWORD, "code": "000000"}
        start.wait()
        if number % 2:
            answer = browser.send("POST", "/api/v1/session", json=login)
        else:
            answer = browser.post("/login", data=login)
        found.append((answer.status_code, "try again in a moment" in answer.text.lower()))

    threads = [threading.Thread(target=tries, args=each) for each in enumerate(browsers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {(403, False), (429, True)}


def test_what_was_sent_is_not_said_again(ground: Ground) -> None:
    answer = ground.browser().send("POST", "/api/v1/session", json={"name": "ada", "password": [PASSWORD]})
    assert answer.status_code == 422
    assert PASSWORD not in answer.text
    assert answer.json()["error"].startswith("password: ")


def test_an_operators_program_lets_sites_in_and_shuts_them_out(ground: Ground, ada: Person) -> None:
    made = ada.calls("POST", "/sites/invitations", json={"site": "east"})
    assert made.status_code == 201
    card = ground.sends("east", Invitation.read(made.json()["code"]))
    [asked] = ada.calls("GET", "/sites/waiting").json()
    assert (asked["name"], asked["fingerprint"]) == ("east", card.fingerprint)
    refused = ada.calls("POST", "/sites/east/approval", json={"fingerprint": "0" * 64})
    assert (refused.status_code, "another fingerprint" in refused.json()["error"]) == (409, True)
    same = {"fingerprint": card.fingerprint}
    assert ada.calls("POST", "/sites/east/approval", json=same).status_code == 204
    assert ada.calls("POST", "/sites/east/approval", json=same).status_code == 409  # the other operator's program
    assert "east" in ground.store.sites()
    ground.people.add("eve", "steward", PASSWORD, site="east")
    assert ada.calls("DELETE", "/sites/east").json() == {"stewards": ["eve"]}
    assert ada.calls("DELETE", "/sites/east").status_code == 409
    assert "east" not in ground.store.sites()
    west = ground.asks("west")
    assert ada.calls("POST", "/sites/west/refusal", json={"fingerprint": west.fingerprint}).status_code == 204
    assert ada.calls("GET", "/sites/waiting").json() == []


@pytest.mark.parametrize("role", ["investigator", "steward", "auditor"])
def test_others_programs_look_at_sites_and_do_nothing(ground: Ground, role: Role) -> None:
    card = ground.asks("east")
    person = ground.person("eve", role, "north" if role == "steward" else None)
    seen = [each["name"] for each in person.calls("GET", "/sites/waiting").json()]
    assert seen == ([] if role == "steward" else ["east"])
    same = {"fingerprint": card.fingerprint}
    for method, path, body in (
        ("POST", "/sites/invitations", {"site": "west"}),
        ("POST", "/sites/east/approval", same),
        ("POST", "/sites/east/refusal", same),
        ("DELETE", "/sites/north", None),
    ):
        assert person.calls(method, path, json=body).status_code == 403
    assert set(ground.store.sites()) == {"north", "south"}


def test_it_describes_itself(ada: Person) -> None:
    described = ada.calls("GET", "/openapi.json").json()
    assert "/overview" in described["paths"]
    for path, methods in described["paths"].items():
        for method, about in methods.items():
            assert about.get("description"), (method, path)


def test_what_pages_ask_by_themselves_keeps_no_session_from_ending(ground: Ground) -> None:
    now = 1_800_000_000.0
    people = People(ground.store, now=lambda: now)
    secret = people.add("eve", "auditor", PASSWORD)
    token = people.log_in("eve", PASSWORD, pyotp.TOTP(secret).at(int(now)), "browser")
    assert token is not None
    for _ in range(3):
        now += IDLE_S / 3 + 1
        polled = people.session(token, "browser", stays=False)
    assert polled is None


@pytest.mark.parametrize("header", [{"hx-request": "true"}, {"accept": "text/event-stream"}])
def test_a_page_that_asks_by_itself_is_known_by_what_it_sends(header: dict[str, str]) -> None:
    headers = [(name.encode(), value.encode()) for name, value in header.items()]
    request = {"type": "http", "method": "GET", "headers": headers}
    assert asks_by_itself(Request(request))
    assert not asks_by_itself(Request({**request, "method": "POST"}))  # what a person types is checked by such a form
    assert not asks_by_itself(Request({**request, "headers": [(b"accept", b"text/html")]}))

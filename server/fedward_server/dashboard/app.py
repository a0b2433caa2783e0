"""The application of the pages, with the people's API: every page, what guards them all."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fedward_common.errors import FedwardError
from fedward_server.api.people import PATH
from fedward_server.api.people.app import people_app
from fedward_server.dashboard import security
from fedward_server.dashboard.audit_page import AuditPage
from fedward_server.dashboard.entering import Entering
from fedward_server.dashboard.frame import HERE, Frame
from fedward_server.dashboard.models_page import ModelsPage
from fedward_server.dashboard.overview_page import OverviewPage
from fedward_server.dashboard.results_page import ResultsPage
from fedward_server.dashboard.run_page import RunPage
from fedward_server.dashboard.sites_page import SitesPage
from fedward_server.dashboard.studies_page import StudiesPage
from fedward_server.people import Session

PAGES = (Entering, OverviewPage, SitesPage, StudiesPage, RunPage, ResultsPage, ModelsPage, AuditPage)


def dashboard_app(frame: Frame) -> Starlette:
    """The application of a hub's pages."""

    def nothing(request: Request, session: Session) -> Response:
        return frame.told(request, session, "not_found", 404)

    def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, FedwardError)
        return frame.render(request, None, "told.html", 500, said="failed_because", why=frame.words(error))

    return Starlette(
        routes=[
            Mount(PATH, people_app(frame)),
            Mount("/static", StaticFiles(directory=HERE / "static")),
            *(route for page in PAGES for route in page(frame).routes()),
            Route("/{rest:path}", frame.page(nothing)),
        ],
        middleware=[Middleware(security.Headers)],
        exception_handlers={FedwardError: failed},
    )

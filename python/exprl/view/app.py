"""The pages as a web application: addresses, templates, errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from exprl.errors import ExprlError
from exprl.monitor.report.marks import advantage_level, grade_level, show_text
from exprl.monitor.report.templates import open_templates
from exprl.view.formats import (
    score_level,
    write_count,
    write_fixed,
    write_share,
    write_signed,
)
from exprl.view.group_page import make_group_page
from exprl.view.links import BadAddressError, NotThereError, Query, link
from exprl.view.problems_page import make_problem_page, make_problems_page
from exprl.view.rollout_page import make_rollout_page
from exprl.view.rollouts_page import make_rollouts_page
from exprl.view.site import Site, open_site
from exprl.view.steps_page import make_steps_page

PAGES: dict[str, Callable[[Site, Query], Any]] = {
    "": make_steps_page,
    "problems": make_problems_page,
    "problem": make_problem_page,
    "group": make_group_page,
    "rollouts": make_rollouts_page,
    "rollout": make_rollout_page,
}
"""What makes the page of each address; its template has the same name, and steps.html is first."""

STATIC = {
    "look.css": ("exprl.monitor.report", "look.css", "text/css"),
    "theme.js": ("exprl.monitor.report", "theme.js", "text/javascript"),
    "view.css": ("exprl.view", "static/view.css", "text/css"),
    "view.js": ("exprl.view", "static/view.js", "text/javascript"),
    "icon.svg": ("exprl.view", "static/icon.svg", "image/svg+xml"),
}
"""Our own files: package, file, type. Nothing else is served by name."""


def make_app(run_dir: Path, started: Callable[[], object]) -> Starlette:
    """The application over a run folder.

    Args:
        started: is called once it can answer.

    Raises:
        DataError: the folder is not a run's.
    """
    site = open_site(run_dir)
    templates = make_templates()
    for name in templates.list_templates():  # compiled now, and not while somebody waits
        templates.get_template(name)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        site.catalog.start()
        site.words.prepare()
        started()
        yield
        await run_in_threadpool(site.catalog.stop)
        site.words.close()

    def page_route(name: str) -> Route:
        template = templates.get_template(f"{name or 'steps'}.html")

        def answer(request: Request) -> Response:  # in a thread: it reads files
            with site.catalog.page_first():
                page = PAGES[name](site, Query(request.query_params))
                return HTMLResponse(template.render(page=page, run=site.run, stamp=site.stamp))

        return Route(f"/{name}", answer)

    def live(_: Request) -> Response:
        return JSONResponse({"stamp": site.stamp})

    def say_error(request: Request, error: Exception) -> Response:
        status = {BadAddressError: 400, NotThereError: 404}.get(type(error), 500)
        said = str(error) or "there is no such page"
        template = templates.get_template("error.html")
        html = template.render(status=status, said=said, run=site.run, stamp=site.stamp)
        return HTMLResponse(html, status)

    return Starlette(
        routes=[
            *(page_route(name) for name in PAGES),
            Route("/live", live),
            *(Route(f"/static/{name}", _static(*where)) for name, where in STATIC.items()),
        ],
        lifespan=lifespan,
        exception_handlers={
            BadAddressError: say_error,
            NotThereError: say_error,
            ExprlError: say_error,
            404: lambda request, _: say_error(request, NotThereError("there is no such page")),
        },
    )


def make_templates() -> jinja2.Environment:
    """The templates, which escape every value; `text` also shows what is invisible."""
    environment = open_templates(Path(__file__).parent / "templates")
    environment.filters |= {
        "text": show_text,
        "grade_level": grade_level,
        "advantage_level": advantage_level,
        "score_level": score_level,
        "signed": write_signed,
        "share": write_share,
        "fixed": write_fixed,
        "thousands": write_count,
    }
    environment.globals |= {"link": link}
    return environment


def _static(package: str, name: str, kind: str) -> Callable[[Request], Response]:
    content = package_files(package).joinpath(name).read_bytes()
    return lambda _: Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

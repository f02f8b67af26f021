"""The page at `/`: the pool, the VMs and the latest events, for a browser. It only shows.

Rendered here and autoescaped: a backend's name or a probe's answer is text, never markup.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from lb import figures
from lb.admin.control import Control

if TYPE_CHECKING:
    import jinja2


@functools.cache
def _template() -> jinja2.Template:
    """Read when somebody first looks: a start that is to serve at once need not wait for jinja2."""
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("lb.admin"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters["milliseconds"] = _or_dash(figures.milliseconds)
    templates.filters["percent"] = _or_dash(figures.percent)
    return templates.get_template("console.html")


def _or_dash(form: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: "–" if value is None else form(value)


async def page(control: Control) -> web.Response:
    """The whole page, without scripts; the browser asks again every two seconds."""
    nonce = secrets.token_urlsafe(16)
    pool = control.pool()
    text = _template().render(
        nonce=nonce,
        pool=pool,
        scales=[control.scale(service) for service in pool],
        vms=await control.vms(),
        events=(await control.journal.events(limit=20))[::-1],
    )
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; frame-ancestors 'none'"
    return web.Response(
        text=text, content_type="text/html", headers={"Content-Security-Policy": policy}
    )

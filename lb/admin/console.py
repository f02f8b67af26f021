"""The page at `/`: the pool, the VMs and the latest events, for a browser. It only shows.

Rendered here and autoescaped: a backend's name or a probe's answer is text, never markup.
"""

from __future__ import annotations

import secrets

import jinja2
from aiohttp import web

from lb.admin.control import Control

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("lb.admin"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.0f} ms"


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.0%}"


_templates.filters["milliseconds"] = _milliseconds
_templates.filters["percent"] = _percent


async def page(control: Control) -> web.Response:
    """The whole page, without scripts; the browser asks again every two seconds."""
    nonce = secrets.token_urlsafe(16)
    pool = control.pool()
    text = _templates.get_template("console.html").render(
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

"""Pages of HTML that stand alone: styles, script, figures and pictures are part of the one file, nothing is fetched."""

import base64
import hashlib
import itertools
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from resnet_zclass.figures import INK

PAGES_PATH = Path(__file__).parent / "pages"


def compose_page(template: str, **content: Any) -> str:
    """A page from a template of the package; text is escaped, and no other script than the package's own can run.

    Args:
        template: Name of a file in `pages/`.
        content: What the template shows.

    Returns:
        HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES_PATH), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    script, style = ((PAGES_PATH / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    number = itertools.count()

    def inline(path: Path, title: str) -> Markup:
        return inline_figure(path, title, f"figure{next(number)}_")

    return environment.get_template(template).render(
        script=Markup(script),  # nosec B704
        style=Markup(style),  # nosec B704
        policy=policy,
        inline_figure=inline,
        **content,
    )


def inline_figure(path: Path | str, title: str, prefix: str = "") -> Markup:
    """A figure as part of a page: the SVG beside a PNG in the colours of the page, else the PNG; empty without either.

    Args:
        path: PNG file.
        title: What the figure shows, for those who cannot see it.
        prefix: What its identifiers begin with, so that they are its own on a page of several.
    """
    path = Path(path)
    if path.with_suffix(".svg").is_file():
        svg = path.with_suffix(".svg").read_text(encoding="utf-8", errors="replace")
        if "<svg" in svg and "</svg>" in svg:
            return _inline_svg(svg, title, prefix)
    if path.is_file():
        data = base64.b64encode(path.read_bytes()).decode()
        return Markup('<img class="figure" src="data:image/png;base64,{}" alt="{}">').format(data, title)
    return Markup("")


def _inline_svg(svg: str, title: str, prefix: str) -> Markup:
    """The `<svg>` of a file that this package drew."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', lambda found: found.group(1) + prefix, svg)
    label = Markup('<svg role="img" aria-label="{}" class="figure"').format(title)
    return label + Markup(svg.removeprefix("<svg"))  # nosec B704

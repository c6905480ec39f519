"""The report as one HTML file: no network, no second file; the browser itself is told to allow neither."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from exotrack.report import interactive
from exotrack.report.document import Document, diameter_limits
from exotrack.report.read import Study

_TEMPLATES = Path(__file__).parent / "templates"


def render(study: Study, document: Document) -> str:
    """HTML text of the report. Names from the sample sheet are escaped; only scripts of this page may run."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = interactive.figures(study, document, diameter_limits(study))
    scripts = [(_TEMPLATES / "report.js").read_text(encoding="utf-8")]
    if figures:
        scripts.insert(0, get_plotlyjs())
    return environment.get_template("report.html.j2").render(
        document=document,
        figures=figures,
        # "<" would end the script element early if a name held "</script>".
        figures_json=Markup(json.dumps(figures, separators=(",", ":")).replace("<", "\\u003c")),
        scripts=[Markup(script) for script in scripts],
        hashes=" ".join(f"'sha256-{_hash(script)}'" for script in scripts),
        style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),
        svg=Markup,
    )


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

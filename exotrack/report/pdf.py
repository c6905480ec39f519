"""The report as PDF: A4, typeset by Typst from the same document as the HTML."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
import typst

from exotrack.report import printed
from exotrack.report.document import Document, diameter_limits
from exotrack.report.formatting import moment_of
from exotrack.report.read import Study

_TEMPLATE = Path(__file__).parent / "templates" / "report.typ"


def render(study: Study, document: Document) -> bytes:
    """PDF of the report; its only date is that of the run, so that equal folders give equal bytes.

    All text reaches the template as data, never as markup: no name from a sample sheet can be read as a command.
    """
    content = asdict(document) | {"figures": printed.figures(study, document, diameter_limits(study))}
    finished = moment_of(study.run.text("finished_utc") or "")
    pdf: bytes = typst.compile(
        _TEMPLATE,
        sys_inputs={"document": json.dumps(content)},
        # Matplotlib brings a sans-serif with it; fonts of the system only fill in scripts that it lacks.
        font_paths=[Path(mpl.get_data_path()) / "fonts" / "ttf"],
        timestamp=int(finished.timestamp()) if finished else 0,
    )
    return pdf

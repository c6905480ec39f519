"""The report: HTML and PDF from the result folder alone, without the videos."""

from __future__ import annotations

from pathlib import Path

from exotrack.place import place
from exotrack.report import html as _html
from exotrack.report import pdf as _pdf
from exotrack.report.document import build
from exotrack.report.read import read
from exotrack.storage import write_bytes

__all__ = ["write"]


def write(result_dir: str | Path, *, html: bool = True, pdf: bool = True) -> tuple[Path, Path]:
    """Write report.html and report.pdf into a result folder, from what the folder holds and nothing else.

    The same folder gives the same bytes: the only times in the report are those of the run.

    Parameters
    ----------
    result_dir : str or Path
        Folder that a run wrote, or its URL. Fields and tables that it lacks are stated as missing in the report.
    html, pdf : bool
        Which of the two to write.

    Returns
    -------
    tuple of Path
        Where report.html and report.pdf are, or would be.

    Raises
    ------
    InputError
        If the folder holds no run.json, or a JSON or TOML file in it is damaged.
    """
    result_dir = place(result_dir)
    study = read(result_dir)
    document = build(study)
    html_path, pdf_path = result_dir / "report.html", result_dir / "report.pdf"
    if html:
        write_bytes(html_path, _html.render(study, document).encode())
    if pdf:
        write_bytes(pdf_path, _pdf.render(study, document))
    return html_path, pdf_path

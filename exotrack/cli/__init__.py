"""The command `exotrack`: arguments in, one call, exit code out.

| code | meaning |
|---|---|
| 0 | all done |
| 1 | it ran, but some videos failed (named on stderr and in the report), or it could not be finished |
| 2 | wrong usage or input that cannot be used; nothing was started |
| 130 | interrupted |
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from typing import Annotated, NoReturn

import typer

from exotrack import __version__
from exotrack.cli import devices, inspection, logs, study, supervise, terminal, videos
from exotrack.errors import ExotrackError, RunError

# The modules of this folder import what they need inside the commands: `exotrack --help` must not wait for compilers
# and plotting libraries.

app = typer.Typer(
    name="exotrack",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"exotrack {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    log_file: logs.LogFile = None,
    version: Annotated[  # noqa: ARG001  # acted on by its callback
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """From raw nanoparticle-tracking video to a batch quality record for extracellular vesicles."""
    logs.start(log_file)


for _command in (
    study.demo,
    study.run,
    videos.simulate,
    videos.convert,
    inspection.inspect,
    study.report,
    study.compare,
    study.calibrate,
    devices.devices,
):
    app.command()(_command)


def _is_watched(arguments: list[str]) -> bool:
    """Whether this is a command whose decoders may crash; not while somebody looks for a fault of ours."""
    long = any(word == "run" for word in arguments) and not {"-h", "--help", "--dry-run"} & set(arguments)
    return long and not os.environ.get("EXOTRACK_DEBUG")


def main() -> NoReturn:
    """Run the command line and leave with its exit code; no traceback reaches the user."""
    if _is_watched(sys.argv[1:]) and not supervise.is_child():
        sys.exit(supervise.run(sys.argv[1:]))
    try:
        app()
    except ExotrackError as error:
        terminal.complain(str(error))
        sys.exit(1 if isinstance(error, RunError) else 2)
    except OSError as error:
        if os.environ.get("EXOTRACK_DEBUG"):
            raise
        terminal.complain(f"{error.filename or 'file system'}: {error.strerror or error}; choose another place")
        sys.exit(2)
    except Exception as error:  # a fault of ours: one line for the user, the traceback for whoever mends it
        if os.environ.get("EXOTRACK_DEBUG"):
            raise
        with tempfile.NamedTemporaryFile("w", prefix="exotrack-", suffix=".log", delete=False, encoding="utf-8") as log:
            traceback.print_exc(file=log)
        terminal.complain(
            f"unexpected {type(error).__name__}: {' '.join(str(error).split())}\n"
            f"This is a fault of exotrack. Please report it with {log.name}"
        )
    sys.exit(1)

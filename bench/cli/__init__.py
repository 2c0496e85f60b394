"""The command line. Commands import what they need when they are called, so that `--help` stays quick."""

from __future__ import annotations

import errno
import sys

from cyclopts import App, CycloptsError

from bench.cli import adapters, data, protocol, store
from bench.cli.attention import attention
from bench.cli.audit import audit
from bench.cli.bundle import bundle, verify
from bench.cli.check import check
from bench.cli.choose import choose
from bench.cli.common import console, output
from bench.cli.curves import curves
from bench.cli.groundtruth import groundtruth
from bench.cli.merge import merge
from bench.cli.parity import parity
from bench.cli.predict import predict
from bench.cli.report import report
from bench.cli.run import run
from bench.cli.score import score

app = App(name="reconbench", help="Which 3D reconstructor should I use for images like mine, with this many views?")
COMMANDS = (
    choose,
    run,
    score,
    predict,
    report,
    curves,
    attention,
    audit,
    groundtruth,
    merge,
    bundle,
    verify,
    check,
    parity,
)
for command in (*COMMANDS, adapters.app, data.app, protocol.app, store.app):
    app.command(command)


# A full disk, a read-only or protected place: the user's to mend, not ours.
NOT_OURS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.EFBIG),
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Bad input is one sentence on standard error and exit code 2; nothing is lost."""
    try:
        code = app(
            arguments if arguments is not None else sys.argv[1:],
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        console.print(f"reconbench: {error}", style="red", markup=False)
        console.print("Run `reconbench --help` for the commands and their options.")
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("Interrupted. Finished trials are stored; the same command goes on from here.")
        sys.exit(130)
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        console.print(f"reconbench: {error}. What was finished before is kept.", style="red", markup=False)
        sys.exit(2)
    except ValueError as error:
        from adapters.contract import InputError  # numpy comes with it

        if not isinstance(error, InputError):
            raise
        console.print(f"reconbench: {error}", style="red", markup=False)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


@app.command
def doctor() -> int:
    """What this machine is and what works on it."""
    from bench.cli.doctor import examine

    well = True
    for finding in examine():
        mark = {True: "[green]ok  [/]", False: "[yellow]no  [/]", None: "    "}[finding.good]
        output.print(f"{mark}{finding.what}: ", end="", markup=True)
        output.print(finding.observed, markup=False)
        well &= finding.good is not False or not finding.needed
    return 0 if well else 1

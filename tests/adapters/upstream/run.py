"""The oracle tests of every network, or of those named, each in the environment of its own card.

`make test-upstream` runs this: it installs a card's environment where it is absent (torch, upstream's code at its
commit; `--source` names local checkouts instead of the network) and runs the system's tests there, with Reconbench's
own packages behind those of the environment, which is left as it is. `--record` writes `fixtures/` anew instead.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

from bench.systems import environments
from bench.systems.cards import get_adapter
from tests.adapters import objects
from tests.adapters.recorded import CASES

ROOT = Path(__file__).parents[3]
CORE = sysconfig.get_path("purelib")
SCENES = {case.system for case in CASES.values()}
PUBLISHED = "test_a_checkpoint_that_upstream_s_code_wrote_loads"
OBJECT = "test_a_checkpoint_that_upstream_s_code_wrote_is_fetched_and_checked_through_the_worker"
WORKER = "test_such_a_checkpoint_is_fetched_run_and_checked_through_the_worker"


def main() -> int:
    """The exit status of the worst."""
    parser = argparse.ArgumentParser(prog="make test-upstream")
    cases = {**CASES, **objects.CASES}
    parser.add_argument("systems", nargs="*", default=list(dict.fromkeys(case.system for case in cases.values())))
    parser.add_argument("--source", action="append", default=[])
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    worst = 0
    for system in arguments.systems:
        adapter = get_adapter(system)
        environments.install(adapter, arguments.source, lambda line: sys.stderr.write(f"{line}\n"))
        python = str(environments.find(adapter).python)
        if arguments.record:
            names = [name for name, case in cases.items() if case.system == system]
            command = ["-m", "tests.adapters.upstream.record", *names]
        else:
            name = system.replace("-", "_")
            tests = [f"tests/adapters/upstream/test_{name}.py", "tests/adapters/test_checkpoint.py"]
            tests += ["tests/adapters/test_recorded.py"]  # what catches every mutation, here beside torch
            if system in SCENES:
                tests += [
                    f"tests/adapters/upstream/test_published.py::{test}[{system}]" for test in (PUBLISHED, WORKER)
                ]
            else:
                tests.append(f"tests/adapters/upstream/test_published_objects.py::{OBJECT}[{system}]")
            command = ["-m", "pytest", "-q", *tests]
        start = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); import site; site.addsitedir({CORE!r}); "
        start += "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
        run = subprocess.run([python, "-c", start, *command[1:]], cwd=ROOT, check=False)
        worst = max(worst, run.returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())

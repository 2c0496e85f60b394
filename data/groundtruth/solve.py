"""Structure from motion in a process of its own, with a deadline: COLMAP can abort, and takes its process with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import adapters
from adapters.contract import InputError, Unsupported
from adapters.shared.sfm import Progress, SparseModel

TAIL = 400  # characters of COLMAP's log quoted when it fails


def solve(
    images: Sequence[Path],
    *,
    groups: Sequence[str],
    focal: Mapping[str, float],
    seed: int,
    timeout: float,
    progress: Progress,
) -> SparseModel:
    """`adapters.shared.sfm.sparse_model` on upright image files. Raises Unsupported where no model is found, and
    InputError when COLMAP dies or takes more than `timeout` seconds."""
    with tempfile.TemporaryDirectory(prefix="groundtruth-") as folder:
        job, out, log = (Path(folder, name) for name in ("job.json", "model.npz", "log.txt"))
        spec = {
            "images": [str(path.resolve()) for path in images],
            "groups": list(groups),
            "focal": dict(focal),
            "seed": seed,
            "threads": os.cpu_count() or 1,
        }
        job.write_text(json.dumps(spec))
        command = [sys.executable, "-P", "-m", "adapters.shared.sfm", str(job), str(out)]
        environment = {**os.environ, "PYTHONPATH": str(Path(adapters.__file__).parents[1])}
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=folder, start_new_session=True
            ) as process,
        ):
            late = threading.Event()

            def stop() -> None:
                late.set()
                os.killpg(process.pid, signal.SIGKILL)

            timer = threading.Timer(timeout, stop)
            timer.start()
            refusal = None
            try:
                for line in process.stdout or ():
                    message = json.loads(line)
                    refusal = message.get("unsupported", refusal)
                    if "stage" in message:
                        progress(message["stage"], message["share"])
                code = process.wait()
            finally:
                timer.cancel()
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        if late.is_set():
            raise InputError(f"structure from motion on {len(images)} images took more than {timeout:g} s, the timeout")
        if refusal is not None:
            raise Unsupported(refusal)
        if code != 0:
            tail = " ".join(log.read_text(errors="replace")[-TAIL:].split())
            raise InputError(f"structure from motion ended with code {code}: {tail or 'nothing logged'}")
        return SparseModel.load(out)

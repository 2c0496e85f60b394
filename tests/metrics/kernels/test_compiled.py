"""The kernels compiled ahead of time, without a GPU: registers, spills, and the loop that the model counts in."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: extra `kernels-test`")
pytest.importorskip("triton", reason="triton is not installed: extra `kernels-test`")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_every_kernel_compiles_and_spills_nothing(architecture: int) -> None:
    """In a process of its own: under the interpreter nothing is compiled."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_gpu", "--compile", str(architecture)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    print(done.stdout)  # noqa: T201  pytest -rP shows registers and spills
    assert len(rows) == 7 and {row["architecture"] for row in rows} == {str(architecture)}
    for row in rows:
        assert 0 < int(row["registers"]) <= 255 and int(row["spills"]) == 0, row
    per_pair = {row["kernel"]: float(row["per_pair"]) for row in rows if row["per_pair"]}
    # 8 are the floor; the B200 does two differences or products in one. Nothing superfluous is in the loop.
    assert 5 < per_pair["search_pairs f32"] < 12
    assert 8 < per_pair["bid f32"] < 18


def test_there_is_no_cuda_c_to_compile() -> None:
    """All kernels are Triton's. Where a CUDA C++ source is added it must be compiled here."""
    sources = list(Path(__file__).parents[3].joinpath("metrics").rglob("*.cu"))
    for source in sources:
        if shutil.which("nvcc") is not None:
            subprocess.run(["nvcc", "-arch=sm_90", "-cubin", "-o", "/dev/null", str(source)], check=True)

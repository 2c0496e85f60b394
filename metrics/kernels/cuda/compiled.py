"""The kernels compiled ahead of time, on any machine: what each needs of a multiprocessor, without a GPU at hand."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from metrics.kernels.cuda import auction, nearest
from metrics.kernels.cuda.device import OPTIONS, Kernel, Tile

WARP = 32
ARCHITECTURES = (80, 90, 100)  # A100, H100 and H200, B200


@dataclass(frozen=True)
class Variant:
    """A kernel as it is launched: what its arguments are, and its tile."""

    name: str
    kernel: Kernel
    signature: dict[str, str]
    constants: dict[str, int]
    tile: Tile


@dataclass(frozen=True)
class Compiled:
    """What the assembler made of a variant for one architecture."""

    name: str
    architecture: int  # compute capability, 90 for 9.0
    registers: int  # a thread
    spills: int  # bytes a thread that went to local memory
    shared: int  # bytes a block
    warps: int  # a block
    code: str  # SASS


def _variant(name: str, kernel: Kernel, tile: Tile, real: str, constants: dict[str, int]) -> Variant:
    """`real`: the type behind the pointers that take either precision."""
    fixed = {
        "PRICE": "*fp64", "RISE": "*fp64", "EPS": "*fp64", "KEY": "*i64", "INDEX": "*i64", "WINNER": "*i64",
        "VISITS": "*i32", "TODO": "*i32", "COUNT": "*i32", "CHOICE": "*i32", "NEXT_COUNT": "*i32", "OWNER": "*i32",
        "HELD": "*i32", "NEXT": "*i32",
    }  # fmt: skip
    signature = {
        argument: "constexpr" if argument in constants else fixed.get(argument, real if argument.isupper() else "i32")
        for argument in kernel.arg_names
    }
    return Variant(name, kernel, signature, constants, tile)


def variants() -> list[Variant]:
    """Every kernel as it is launched on a GPU, in both precisions where it has two."""
    search = {"BQ": nearest.SEARCH.rows, "BP": nearest.SEARCH.points, "BC": nearest.BOXES, "COUNT": 0}
    batch = {"BQ": nearest.BATCH.rows, "BP": nearest.BATCH.points}
    bid = {"BQ": auction.BID.rows, "BP": auction.BID.points}
    return [
        _variant("search_tiles f64", nearest.search_tiles, nearest.SEARCH, "*fp64", search),
        _variant("search_pairs f32", nearest.search_pairs, nearest.BATCH, "*fp32", batch),
        _variant("bid f32", auction.bid, auction.BID, "*fp32", bid),
        _variant("bid f64", auction.bid, auction.BID_DOUBLE, "*fp64", bid),
        _variant("settle f32", auction.settle, auction.BID, "*fp32", {"B": auction.BIDDERS}),
        _variant("settle f64", auction.settle, auction.BID, "*fp64", {"B": auction.BIDDERS}),
        _variant("award", auction.award, auction.BID, "*fp64", {"B": auction.BIDDERS}),
    ]


def compiled(variant: Variant, architecture: int) -> Compiled:
    """`variant` compiled for `architecture`. Not under the interpreter, which keeps kernels from being compiled."""
    attributes = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(variant.signature.values()) if "*" in kind}
    source = ASTSource(variant.kernel, variant.signature, variant.constants, attributes)
    target = GPUTarget("cuda", architecture, WARP)
    binary = triton.compile(source, target=target, options={"num_warps": variant.tile.warps, **OPTIONS})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(binary.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", str(path))
        code = _tool("nvdisasm", "-c", str(path))
    figures = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    return Compiled(
        name=variant.name,
        architecture=architecture,
        registers=figures["REG"],
        spills=figures["STACK"] + figures["LOCAL"],
        shared=max(figures["SHARED"], int(binary.metadata.shared)),
        warps=variant.tile.warps,
        code=code,
    )


def _tool(name: str, *arguments: str) -> str:
    """What a tool of NVIDIA's that Triton brings says."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout

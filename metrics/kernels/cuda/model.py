"""What share of a GPU's peak to expect of the kernels: instructions from the compiled code, counts from a run.

The search's and the auction's counts (tiles visited, bids, rounds) are the interpreter's own; the instructions a pair
are read off the loop that compares, in the code that the assembler made. Memory traffic is far below what a GPU can
bring (a tile of points is read once and compared with a tile of queries), so the rate of instructions decides.
Nothing here was measured on a GPU.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from metrics.kernels.cuda.compiled import WARP, Compiled

FLOOR = 8  # instructions a pair that any exhaustive search takes: 3 differences, 3 products, a comparison, a choice
REGISTERS = 65_536  # a multiprocessor
MOST_WARPS = 64  # a multiprocessor, of the A100, the H100 and the B200
MOST_BLOCKS = 32
ROUND = 10e-6  # seconds that a round of the auction takes at least: three kernels and two fills in a graph


@dataclass(frozen=True)
class Gpu:
    """A device by its data sheet."""

    name: str
    processors: int
    clock: float  # Hz
    lanes: int  # single-precision instructions a multiprocessor and cycle
    doubles: int  # double-precision ones

    @property
    def rate(self) -> float:
        """Single-precision instructions a second, of all lanes."""
        return self.processors * self.clock * self.lanes


H200 = Gpu("H200", 132, 1.98e9, 128, 64)


@dataclass(frozen=True)
class Loop:
    """The loop of a kernel that compares a tile with a tile."""

    instructions: Counter[str]  # opcode -> how many a thread, a turn of the loop
    pairs: int  # that a thread compares, a turn

    @property
    def per_pair(self) -> float:
        return sum(self.instructions.values()) / self.pairs

    def cycles(self, gpu: Gpu) -> float:
        """Of one multiprocessor, a pair: single- and double-precision and special instructions each at their rate."""
        double = sum(count for opcode, count in self.instructions.items() if opcode[0] == "D" and opcode != "DEPBAR")
        special = self.instructions["MUFU"]
        total = sum(self.instructions.values())
        return max((total - double) / gpu.lanes + double / gpu.doubles, special / 16) / self.pairs


def loop(compiled: Compiled, pairs: int) -> Loop:
    """The largest loop of `compiled`, whose turn compares `pairs` a thread."""
    lines = compiled.code.splitlines()
    at = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"\s*(\.L_\w+):", line))}
    best: Counter[str] = Counter()
    for end, line in enumerate(lines):
        target = re.search(r"\bBRA\b.*?(\.L_\w+)", line)
        begin = at.get(target[1], end) if target else end
        if begin < end:
            body = Counter(m[1] for text in lines[begin : end + 1] if (m := _OPCODE.search(text)))
            best = max(best, body, key=lambda counter: sum(counter.values()))
    return Loop(best, pairs)


_OPCODE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)")


def occupancy(compiled: Compiled) -> float:
    """The share of a multiprocessor's warps that its registers leave room for."""
    threads = compiled.warps * WARP
    blocks = min(REGISTERS // (-(-compiled.registers // 8) * 8 * threads), MOST_BLOCKS)
    return min(blocks * compiled.warps, MOST_WARPS) / MOST_WARPS


def seconds(pairs: float, loop: Loop, gpu: Gpu) -> float:
    """That `pairs` comparisons take where all multiprocessors are busy."""
    return pairs * loop.cycles(gpu) / (gpu.processors * gpu.clock)

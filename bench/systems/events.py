"""What a worker says, read without trusting it: JSON lines of known shapes, in bounded number and length."""

from __future__ import annotations

import math
import os
import selectors
import subprocess
import time
from collections.abc import Iterator
from typing import Literal

import msgspec

from adapters.contract import ContractError
from bench.systems.measure import Steps

LONGEST_LINE = 64 * 1024  # bytes
MOST_BYTES = 16 * 2**20  # of all lines together
LONGEST_MESSAGE = 2000  # characters
LONGEST_NAME = 200  # characters
LINGER_SECONDS = 1.0  # how long a worker's end of the pipe may stay open after its process has ended


class Loaded(msgspec.Struct, frozen=True, tag="loaded", tag_field="event"):
    """The network stands ready."""

    seconds: float


class Cold(msgspec.Struct, frozen=True, tag="cold", tag_field="event"):
    """The first call's times."""

    seconds: Steps


class Warm(msgspec.Struct, frozen=True, tag="warm", tag_field="event"):
    """A later call's times."""

    seconds: Steps


class Mark(msgspec.Struct, frozen=True, tag="mark", tag_field="event"):
    """A step ended, and the worker waits."""

    step: Literal["begin", "prepare", "frame", "infer", "finish"]


class Pixels(msgspec.Struct, frozen=True, tag="pixels", tag_field="event"):
    """The worker waits for an image or a mask."""

    what: Literal["image", "mask"]
    index: int


class Ran(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`adapters.contract.Execution`, as the worker told it."""

    precision: str = ""
    resolution: str = ""
    attention: str = ""
    foreground: str = ""

    def __post_init__(self) -> None:
        """ValueError where a text is too long, or cannot be printed."""
        for name in self.__struct_fields__:
            text = getattr(self, name)
            if len(text) > LONGEST_NAME or not text.isprintable():
                raise ValueError(f"execution.{name}: at most {LONGEST_NAME} printable characters wanted")


class Done(msgspec.Struct, frozen=True, tag="done", tag_field="event"):
    """Everything asked for was done; peaks in bytes."""

    peak_rss: int = 0
    device_allocator: int | None = None
    device_driver: int | None = None
    execution: Ran = Ran()


class Failed(msgspec.Struct, frozen=True, tag="failed", tag_field="event"):
    """The worker gave up, for a reason that it knows."""

    status: Literal["oom", "crash", "invalid_output", "unsupported", "unavailable"]
    message: str = ""


Event = Loaded | Cold | Warm | Mark | Pixels | Done | Failed
_decoder = msgspec.json.Decoder(Event)


def parse(line: bytes) -> Event:
    """One event; ContractError with what is wrong of it otherwise."""
    try:
        event: Event = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        shown = line[:80].decode("ascii", errors="replace")
        raise ContractError(
            f"the worker's messages: {shown!r} seen, an event of the contract wanted ({error})"
        ) from error
    numbers: tuple[float | None, ...] = ()
    if isinstance(event, Loaded):
        numbers = (event.seconds,)
    elif isinstance(event, Cold | Warm):
        numbers = (event.seconds.prepare, event.seconds.infer, event.seconds.finish, event.seconds.total)
    elif isinstance(event, Done):
        numbers = (event.peak_rss, event.device_allocator, event.device_driver)
    for number in numbers:
        if number is not None and not (math.isfinite(number) and 0 <= number < 2**62):
            raise ContractError(f"the worker's messages: {number} seen, a time or a size from 0 up wanted")
    if isinstance(event, Failed):
        text = "".join(char if char.isprintable() or char in "\n\t" else "?" for char in event.message)
        return Failed(event.status, text[:LONGEST_MESSAGE])
    return event


def read_events(pipe: int, process: subprocess.Popen[bytes]) -> Iterator[Event]:
    """The events that come through the file descriptor `pipe`, as `read_lines`."""
    for line in read_lines(pipe, process):
        yield parse(line)


def read_lines(pipe: int, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """The lines that come through the file descriptor `pipe` until it ends, or until `process` has ended and a moment
    has passed: a child that outlives it may hold the pipe open for ever. ContractError where they are too long or too
    many."""
    buffer, total, ended = b"", 0, float("inf")
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while time.monotonic() - ended < LINGER_SECONDS:
            ready = selector.select(timeout=0.2)
            if process.poll() is not None:
                ended = min(ended, time.monotonic())
            if not ready:
                continue
            chunk = os.read(pipe, 65536)
            if not chunk:
                return  # a last line without its end was cut off with the worker
            total += len(chunk)
            *lines, buffer = (buffer + chunk).split(b"\n")
            if total > MOST_BYTES or len(buffer) > LONGEST_LINE or any(len(line) > LONGEST_LINE for line in lines):
                raise ContractError(
                    f"the worker's messages: more than {LONGEST_LINE} bytes in a line or {MOST_BYTES} in all seen"
                )
            yield from lines

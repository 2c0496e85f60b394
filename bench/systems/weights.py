"""Weights: what a trial's network is filled with, looked up in the cache or fetched into it under an accepted licence.

the hub's own cache (HF_HUB_CACHE, HF_HOME)   models--ORG--NAME/snapshots/COMMIT/FILE
weights/HASH/FILE                             what a card's url named
licences/NAME.json                            the licences that the user accepted for the adapter NAME
digests/HASH                                  sha256 of a file of this path, size and time: it is read once"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from adapters.contract import InputError, Unavailable
from bench.files import cache_dir, replacing, write
from bench.systems.cards import Adapter, Card, Weights
from bench.systems.measure import now

PRETRAINED, RANDOM, NONE = "pretrained", "random", "none"
CHUNK = 2**20  # bytes


class Licences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the user accepted, and when."""

    code: str
    weights: str
    accepted: str  # UTC, ISO 8601


@dataclass(frozen=True)
class ResolvedWeights:
    """The weights of one trial."""

    load: str  # what the adapter's `load` receives: "none", "random", or an absolute path
    id: str  # for keys and records: "none", "random", "pretrained:HASH" or "path:HASH"


def resolve(adapter: Adapter, requested: str) -> ResolvedWeights:
    """What "pretrained", "random" or a path means for `adapter`; an adapter without weights is given none.

    Raises Unavailable, naming the one command that mends it, where pretrained weights are absent, spoilt or under a
    licence not accepted; InputError where a path leads nowhere or the adapter has no weights to replace."""
    card = adapter.card
    if requested not in (PRETRAINED, RANDOM):
        if card.weights is None:
            raise InputError(f"--weights: {requested} seen, but adapter {adapter.name} has no weights")
        path = Path(requested).expanduser().absolute()
        if not path.exists():
            raise InputError(f"--weights: {requested}: no such file; pretrained, random or a checkpoint wanted")
        return ResolvedWeights(str(path), f"path:{_digest(path)[:16]}")
    if card.weights is None:
        return ResolvedWeights(NONE, NONE)
    if requested == RANDOM:
        return ResolvedWeights(RANDOM, RANDOM)
    command = f"`reconbench adapters fetch {adapter.argument} --accept-licence`"
    folder = _folder(card.weights)
    if folder is None:
        raise Unavailable(f"its weights are not here: {command} accepts their licence and fetches them")
    if not accepted(adapter):
        raise Unavailable(f"the licence of its weights, {_licence(card)}, is not accepted: {command} accepts it")
    try:
        return _checked(folder, card.weights)
    except InputError as error:
        raise Unavailable(f"{error}; delete it, and {command} fetches it again") from error


def fetch(adapter: Adapter, advance: Callable[[int, int], None] = lambda done, total: None) -> ResolvedWeights:
    """Fetch the weights of `adapter`'s card unless they are here, and check them. `advance` is called with bytes.

    InputError naming the file: where it cannot be had, and where its hash is not the card's."""
    weights = adapter.card.weights
    if weights is None:
        return ResolvedWeights(NONE, NONE)
    folder = _folder(weights)
    if folder is None:
        (_fetch_hub if weights.hub else _fetch_url)(weights, advance)
        folder = _folder(weights)
    if folder is None:
        raise InputError(f"{weights.hub}: fetched, but revision {weights.revision or 'main'} is not in {_hub_cache()}")
    return _checked(folder, weights)


def accept(adapter: Adapter) -> None:
    """Note that the user accepts the licences of `adapter`'s code and weights."""
    note = Licences(adapter.card.licence_code, _licence(adapter.card), now())
    write(_note(adapter), msgspec.json.format(msgspec.json.encode(note)))


def accepted(adapter: Adapter) -> bool:
    """Whether the user accepted the licences that the card names today."""
    if not (path := _note(adapter)).is_file():
        return False
    note = msgspec.json.decode(path.read_bytes(), type=Licences)
    return (note.code, note.weights) == (adapter.card.licence_code, _licence(adapter.card))


def _licence(card: Card) -> str:
    return card.licence_weights or card.licence_code


def _note(adapter: Adapter) -> Path:
    return cache_dir() / "licences" / f"{adapter.name}.json"


def _folder(weights: Weights) -> Path | None:
    """The folder that holds every file of `weights`, or None."""
    folder = _url_folder(weights)
    if weights.hub:
        repository = _hub_cache() / f"models--{weights.hub.replace('/', '--')}"
        branch = repository / "refs" / "main"
        main = branch.read_text().strip() if branch.is_file() else "none"
        folder = repository / "snapshots" / (weights.revision or main)
    return folder if all((folder / name).is_file() for name in weights.files) else None


def _hub_cache() -> Path:
    """Where the hub's library keeps its files, by its own rules."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get("HF_HOME") or user / "huggingface").expanduser() / "hub"


def _url_folder(weights: Weights) -> Path:
    return cache_dir() / "weights" / hashlib.sha256(weights.url.encode()).hexdigest()[:16]


def _checked(folder: Path, weights: Weights) -> ResolvedWeights:
    """The files in `folder`, if their hashes are the card's; InputError otherwise."""
    seen = {name: _digest(folder / name) for name in weights.files}
    for name, wanted in weights.files.items():
        _check(folder / name, seen[name], wanted)
    names = list(seen)
    where = folder / names[0] if len(names) == 1 else folder
    return ResolvedWeights(
        str(where.absolute()), f"pretrained:{hashlib.sha256(msgspec.json.encode(seen)).hexdigest()[:16]}"
    )


def _check(path: Path, seen: str, wanted: str) -> None:
    if wanted and seen != wanted:
        raise InputError(f"{path}: sha256 {seen} seen, {wanted} wanted")


def _digest(path: Path) -> str:
    """sha256 of a file, or of a folder's files and their names; kept, so that an unchanged file is read once."""
    if path.is_dir():
        parts = [(str(file.relative_to(path)), _digest(file)) for file in sorted(path.rglob("*")) if file.is_file()]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
    state = path.stat()
    name = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
    kept = cache_dir() / "digests" / hashlib.sha256(name.encode()).hexdigest()[:32]
    if not kept.is_file():
        with path.open("rb") as file:
            write(kept, hashlib.file_digest(file, "sha256").hexdigest().encode())
    return kept.read_text()


def _fetch_hub(weights: Weights, advance: Callable[[int, int], None]) -> None:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise InputError(
            f"{weights.hub}: huggingface_hub is wanted to fetch it: pip install 'reconbench[models]'"
        ) from error
    for name in weights.files:
        try:  # its own bar shows bytes
            huggingface_hub.hf_hub_download(
                weights.hub, name, revision=weights.revision or None, cache_dir=_hub_cache()
            )
        except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
            raise InputError(f"{weights.hub}: {name} cannot be fetched ({' '.join(str(error).split())})") from error


def _fetch_url(weights: Weights, advance: Callable[[int, int], None]) -> None:
    for name, wanted in weights.files.items():
        url = weights.url if weights.url.endswith(f"/{name}") else f"{weights.url.rstrip('/')}/{name}"
        digest, done = hashlib.sha256(), 0
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, replacing(_url_folder(weights) / name) as path:
                total = int(answer.headers.get("Content-Length") or 0)
                with path.open("wb") as file:
                    while part := answer.read(CHUNK):
                        file.write(part)
                        digest.update(part)
                        done += len(part)
                        advance(done, total)
                if done < total:
                    raise InputError(f"{url}: ended after {done} of {total} bytes")
                _check(Path(name), digest.hexdigest(), wanted)
        except (OSError, http.client.HTTPException) as error:
            raise InputError(f"{url}: cannot be fetched ({error})") from error

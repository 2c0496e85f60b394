"""Weights: what a trial's network is filled with, looked up in the cache or fetched into it under an accepted licence.

the hub's own cache (HF_HUB_CACHE, HF_HOME)   models--ORG--NAME/snapshots/COMMIT/FILE
weights/HASH/FILE                             what a card's url named
weights/together/HASH/[FOLDER/]FILE           links to the files of a card that names several sources
licences/NAME.json                            the licences that the user accepted for the adapter NAME
digests/HASH                                  see `bench.files.digest`"""

from __future__ import annotations

import errno
import functools
import hashlib
import http
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from adapters.contract import InputError, Unavailable
from bench.files import CACHE_VARIABLE, cache_dir, digest, write
from bench.systems.cards import Adapter, Card, Weights
from bench.systems.measure import now

PRETRAINED, RANDOM, NONE = "pretrained", "random", "none"
CHUNK = 2**20  # bytes
ATTEMPTS, PAUSE = 5, 1.0  # of a fetch; seconds before the second, twice as long before each that follows
BUSY = (408, 425, 429, 500, 502, 503, 504)  # what a server answers that may answer otherwise soon


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
        return ResolvedWeights(str(path), f"path:{digest(path)[:16]}")
    if card.weights is None:
        return ResolvedWeights(NONE, NONE)
    if requested == RANDOM:
        return ResolvedWeights(RANDOM, RANDOM)
    command = f"`reconbench adapters fetch {adapter.argument} --accept-licence`"
    if absent := [source for source in card.weights.sources.values() if _folder(source) is None]:
        which = f" ({', '.join(source.where for source in absent)})" if card.weights.beside else ""
        raise Unavailable(f"its weights are not here{which}: {command} accepts their licence and fetches them")
    if not accepted(adapter):
        raise Unavailable(f"the licence of its weights, {_licence(card)}, is not accepted: {command} accepts it")
    try:
        return _checked(card.weights)
    except InputError as error:
        raise Unavailable(f"{error}; delete it, and {command} fetches it again") from error


def fetch(adapter: Adapter, advance: Callable[[int, int], None] = lambda done, total: None) -> ResolvedWeights:
    """Fetch the weights of `adapter`'s card unless they are here, and check them. `advance` is called with bytes.

    InputError naming the file: where it cannot be had, and where its hash is not the card's."""
    weights = adapter.card.weights
    if weights is None:
        return ResolvedWeights(NONE, NONE)
    for source in weights.sources.values():
        if _folder(source) is None:
            (_fetch_hub if source.hub else _fetch_url)(source, advance)
        if _folder(source) is None:
            raise InputError(
                f"{source.hub}: fetched, but revision {source.revision or 'main'} is not in {_hub_cache()}"
            )
    return _checked(weights)


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


def _checked(weights: Weights) -> ResolvedWeights:
    """The files of every source, all of them here, if their hashes are the card's; InputError otherwise."""
    paths, observed = {}, {}
    for below, source in weights.sources.items():
        folder = _folder(source)
        assert folder is not None
        for name, wanted in source.files.items():
            path = f"{below}/{name}" if below else name
            paths[path], observed[path] = folder / name, digest(folder / name)
            _check(folder / name, observed[path], wanted)
    key = hashlib.sha256(msgspec.json.encode(observed)).hexdigest()[:16]
    where = next(iter(paths.values()))
    if weights.beside:
        where = _together(paths, key)
    elif len(paths) > 1:
        where = where.parents[len(Path(next(iter(paths))).parts) - 1]
    return ResolvedWeights(str(where.absolute()), f"pretrained:{key}")


def _together(paths: dict[str, Path], key: str) -> Path:
    """A folder of links to `paths`, each under its name: what several sources gave, as one folder."""
    folder = cache_dir() / "weights" / "together" / key
    for name, path in paths.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not (link.is_symlink() and link.resolve() == path.resolve()):
            fresh = link.with_name(f".{link.name}-{os.getpid()}")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(path.resolve())
            fresh.replace(link)  # two runs may do this at once
    return folder


def _check(path: Path, observed: str, wanted: str) -> None:
    if wanted and observed != wanted:
        raise InputError(f"{path}: sha256 {observed} seen, {wanted} wanted")


class _Passing(Exception):
    """A trouble that may be over at the next attempt: a connection cut, a server that is busy."""


def _persistently(what: str, attempt: Callable[[], object]) -> None:
    """Call `attempt` until it ends well, with growing pauses after troubles that pass; InputError after the last."""
    for number in range(ATTEMPTS):
        if number:
            time.sleep(PAUSE * 2 ** (number - 1))
        try:
            attempt()
        except _Passing as error:
            last = error
        else:
            return
    raise InputError(f"{what}: cannot be fetched: {last}, {ATTEMPTS} times; the same command goes on where this ended")


def _disk_trouble(error: BaseException | None, folder: Path) -> str:
    """What of the disk is in the way of writing below `folder`, or nothing."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{folder}: the disk is full; free some of it, or name another folder by {_variable(folder)}"
        if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return f"{folder}: cannot be written to; name another folder by {_variable(folder)}"
        error = error.__cause__ or error.__context__
    return ""


def _variable(folder: Path) -> str:
    return CACHE_VARIABLE if folder.is_relative_to(cache_dir()) else "HF_HUB_CACHE"


def _fetch_hub(weights: Weights, advance: Callable[[int, int], None]) -> None:
    """By the hub's own library, which keeps what came of a file, and goes on there."""
    try:
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        raise InputError(
            f"{weights.hub}: huggingface_hub is wanted to fetch it: pip install 'reconbench[models]'"
        ) from error
    for name in weights.files:
        _persistently(f"{weights.hub}: {name}", functools.partial(_ask_hub, huggingface_hub, weights, name))


def _ask_hub(library: Any, weights: Weights, name: str) -> None:
    """One attempt: InputError where another would end no better, else _Passing."""
    errors, what = library.errors, f"{weights.hub}: {name}"
    try:  # its own bar tells of bytes
        library.hf_hub_download(weights.hub, name, revision=weights.revision or None, cache_dir=_hub_cache())
    except errors.GatedRepoError as error:
        where = f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{weights.hub}"
        raise InputError(f"{what}: access is given on request: ask for it at {where}, then `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{what}: the hub has no such repository: it moved, or shows itself after a login") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{what}: the hub has no revision {weights.revision or 'main'} of it") from error
    except errors.LocalEntryNotFoundError as error:  # so it calls a hub that it cannot reach
        if trouble := _disk_trouble(error, _hub_cache()):
            raise InputError(trouble) from error
        raise _Passing("the hub cannot be reached") from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"{what} cannot be fetched: the repository has no such file") from error
    except Exception as error:  # what carries the bytes has classes of its own
        if trouble := _disk_trouble(error, _hub_cache()):
            raise InputError(trouble) from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, ValueError) or (status is not None and status not in BUSY):
            raise InputError(f"{what} cannot be fetched ({reason})") from error
        raise _Passing(reason) from error


def _fetch_url(weights: Weights, advance: Callable[[int, int], None]) -> None:
    """By HTTP. What came of a file is kept beside it; the next attempt goes on there if the file is still the same."""
    for name, wanted in weights.files.items():
        url = weights.url if weights.url.endswith(f"/{name}") else f"{weights.url.rstrip('/')}/{name}"
        path = _url_folder(weights) / name
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _persistently(url, functools.partial(_ask_url, url, part, advance))
            with part.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            _tag(part).unlink(missing_ok=True)
            if wanted and sha256 != wanted:
                part.unlink()
            _check(Path(name), sha256, wanted)
            part.chmod(0o644)
            part.replace(path)
        except OSError as error:
            raise InputError(_disk_trouble(error, path.parent) or f"{url}: cannot be fetched ({error})") from error


def _tag(part: Path) -> Path:
    """What the server called the file's version, of which a part is here."""
    return part.with_suffix(".tag")


def _ask_url(url: str, part: Path, advance: Callable[[int, int], None]) -> None:
    """One attempt: InputError where another would end no better, else _Passing."""
    tag = _tag(part)
    done = part.stat().st_size if part.is_file() and tag.is_file() else 0
    headers = {"Range": f"bytes={done}-", "If-Range": tag.read_text()} if done else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            part.unlink()
            raise _Passing("it became shorter") from error
        if error.code in (401, 403):
            raise InputError(f"{url}: cannot be fetched: access is given on request ({error})") from error
        raise (
            _Passing(str(error)) if error.code in BUSY else InputError(f"{url}: cannot be fetched ({error})")
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(str(getattr(error, "reason", error)) or type(error).__name__) from error
    with answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        tag.write_text(version) if version and not version.startswith("W/") else tag.unlink(missing_ok=True)
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else 0
        with part.open("ab" if done else "wb") as file:
            while True:
                try:
                    piece = answer.read(CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    raise _Passing(f"ended after {done} of {total} bytes") from error
                if not piece:
                    break
                file.write(piece)
                done += len(piece)
                advance(done, total)
    if done < total:
        raise _Passing(f"ended after {done} of {total} bytes")

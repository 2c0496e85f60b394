"""A bundle: what others need to compute a store's scores again, in one zip file.

    bundle.json                 `Manifest`
    trials/KEY.json             `TrialRecord`; its `scene_path` is a name of the manifest's scenes
    scores/OF.PROTOCOL.TRUTH.json   `ScoreRecord`, as claimed
    predictions/ID.npz          content-addressed
    scenes/N/...                a scene that is not embedded: scene.json, masks, truth, and images where asked for

The same store gives the same bytes. A bundle comes from a stranger: `unpack` takes plain files of these names alone, of
limited number and size, and writes nowhere else."""

from __future__ import annotations

import contextlib
import re
import shutil
import stat
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from adapters.contract import InputError, TruthKind
from bench.arrays import DAMAGED
from bench.files import replacing
from bench.systems.measure import version
from bench.trials.records import TrialRecord
from bench.trials.scenes import EMBEDDED
from bench.trials.store import Store
from data.scene import Scene, truth_id
from metrics.scoring.identity import scoring_code
from metrics.scoring.protocol import Protocol, load_protocol, protocol_names

FORMAT = 1
MANIFEST = "bundle.json"
MOST_FILES = 200_000
MOST_BYTES = 64 * 2**30  # of all files together, as they are unpacked
MOST_RECORD = 64 * 2**20  # of one JSON file
MOST_RATIO = 100  # unpacked over packed: predictions and depth maps are packed already
SPARE = 2**22  # bytes that no ratio is asked of
PIECE = 2**22  # bytes copied at once
STAMP = (1980, 1, 1, 0, 0, 0)  # of every file: when it was packed is not part of what it is
_PART = r"[A-Za-z0-9_+ -][A-Za-z0-9_.+ -]{0,200}"  # of a path: no leading dot, no slash, nothing hidden
NAMES = re.compile(
    rf"bundle\.json|trials/[0-9a-f]{{24}}\.json|scores/[0-9a-f.]{{1,200}}\.json|predictions/[0-9a-f]{{24}}\.npz"
    rf"|scenes/[0-9]{{1,6}}(/{_PART}){{1,4}}"
)


class BundledScene(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scene that records of a bundle name."""

    name: str  # of an embedded scene, or as the records call it
    embedded: bool
    truths: dict[TruthKind, str]  # the id of each truth that something was scored against
    folder: str = ""  # in the bundle; "": its identity alone


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`bundle.json`."""

    format: int
    version: str  # of the Reconbench that packed it
    code: str  # of what scored, see `metrics.scoring.identity`
    protocols: dict[str, Protocol]  # by hash, whole
    scenes: dict[str, BundledScene]  # by the `scene_path` of the bundle's records


@dataclass(frozen=True)
class Packed:
    """What a bundle was made of, and what of its store it does not hold."""

    trials: int
    scores: int
    scenes: int  # whole, with what their truths are made of
    left_out: tuple[str, ...]  # sentences


def write_bundle(
    store: Store, out: Path, protocols: Sequence[str] = (), images: bool = False, truths: bool = True
) -> Packed:
    """Pack what `store` holds into the file `out`: every trial that is an answer, its prediction, its scores under
    Reconbench's own protocols and `protocols` (names or files); of a scene that is not embedded the truths that these
    need, or without `truths` their identity alone. InputError where nothing is left."""
    named = [load_protocol(name) for name in [*protocol_names(), *protocols]]
    known = {protocol.hash: protocol for protocol in named}
    broken = {problem.path for problem in store.problems()}
    records = [
        record
        for record in store.trials()
        if record.status != "unavailable" and store.path / "trials" / f"{record.key}.json" not in broken
    ]
    places = dict.fromkeys(record.scene_path for record in records)
    scenes = {path: Scene.open(Path(path)) for path in places if Path(path, "scene.json").is_file()}
    kept = [r for r in records if r.scene_path in scenes and _prediction(store, r) not in broken]
    if not kept:
        raise InputError(f"{store.path}: no finished trial of a scene that is here seen, at least one wanted")
    current_ids = {path: _truth_ids(scene) for path, scene in scenes.items()}
    of: dict[str, set[str]] = {}  # an answer -> the scenes that it was given for: one may be the same for several
    for record in kept:
        of.setdefault(record.scored_as, set()).add(record.scene_path)
    every = [score for score in store.scores() if score.of in of and not score.brief]
    current = [s for s in every if any(current_ids[path].get(s.truth) == s.truth_id for path in of[s.of])]
    scores = [score for score in current if score.protocol_hash in known]
    left_out = _left_out(len(records) - len(kept), len(every) - len(current), len(current) - len(scores))
    manifest_scenes: dict[str, BundledScene] = {}
    names: dict[str, str] = {}  # the scene's path here -> in the bundle's records
    for i, (path, scene) in enumerate(sorted(scenes.items())):
        kinds = {
            s.truth: s.truth_id for s in scores if path in of[s.of] and current_ids[path].get(s.truth) == s.truth_id
        }
        embedded = scene.path.resolve().is_relative_to(EMBEDDED)
        name = scene.path.resolve().relative_to(EMBEDDED).as_posix() if embedded else scene.name
        folder = "" if embedded or not truths or not kinds else f"scenes/{i}"
        names[path] = name if embedded else f"{i}"
        manifest_scenes[names[path]] = BundledScene(name, embedded, dict(sorted(kinds.items())), folder)
    used = {score.protocol_hash for score in scores}
    asked = {digest: protocol for digest, protocol in sorted(known.items()) if digest in used}
    manifest = Manifest(FORMAT, version(), scoring_code(), asked, manifest_scenes)
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _put(archive, MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        for record in kept:
            plain = msgspec.structs.replace(
                record,
                scene_path=names[record.scene_path],
                origin=None,
                command=_without_paths(record.command, record.scene_path, record.scene),
                log_tail=_without_paths(record.log_tail, record.scene_path, record.scene),
            )
            _put(archive, f"trials/{record.key}.json", msgspec.json.encode(plain))
        for score in scores:
            name = f"scores/{score.of}.{score.protocol_hash}.{score.truth_id}.json"
            _put(archive, name, msgspec.json.encode(score))
        for prediction in sorted({record.prediction for record in kept if record.prediction is not None}):
            _put_file(archive, f"predictions/{prediction}.npz", store.prediction_path(prediction))
        for path, scene in sorted(scenes.items()):
            bundled = manifest_scenes[names[path]]
            if bundled.folder:
                _put_scene(archive, bundled.folder, scene, bundled.truths, images)
    return Packed(len(kept), len(scores), sum(bool(s.folder) for s in manifest_scenes.values()), left_out)


def _prediction(store: Store, record: TrialRecord) -> Path | None:
    return None if record.prediction is None else store.prediction_path(record.prediction)


def _truth_ids(scene: Scene) -> dict[TruthKind, str]:
    """The scene's truths as they are now."""
    return {kind: truth_id(scene.path / "truth" / kind) for kind in scene.truth_kinds}


def _left_out(trials: int, changed: int, others: int) -> tuple[str, ...]:
    counts = {
        f"{trials} trials, whose scene or prediction is no longer there": trials,
        f"{changed} scores under a truth that has changed since": changed,
        f"{others} scores of sweeps, of protocols not named, or by another version of the instruments": others,
    }
    return tuple(sentence for sentence, count in counts.items() if count)


def _without_paths(text: str, scene_path: str, scene: str) -> str:
    """`text` without where the scene and the user's home lie: a bundle goes to strangers."""
    return text.replace(scene_path, scene).replace(str(Path.home()), "~")


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(_entry(name, zipfile.ZIP_DEFLATED), content)


def _put_file(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    entry = _entry(name, zipfile.ZIP_DEFLATED if path.suffix in (".json", ".ply") else zipfile.ZIP_STORED)
    entry.file_size = path.stat().st_size
    with path.open("rb") as source, archive.open(entry, "w", force_zip64=entry.file_size >= 2**31) as target:
        shutil.copyfileobj(source, target, PIECE)


def _entry(name: str, method: int) -> zipfile.ZipInfo:
    if not NAMES.fullmatch(name):
        raise InputError(f"{name}: letters, digits, spaces and .-_+ wanted in the names of a scene's files")
    entry = zipfile.ZipInfo(name, STAMP)
    entry.compress_type, entry.external_attr = method, (stat.S_IFREG | 0o644) << 16
    return entry


def _put_scene(archive: zipfile.ZipFile, folder: str, scene: Scene, kinds: Collection[str], images: bool) -> None:
    """The scene with those of its truths; what lay outside its folder lies in it, under the same hash."""
    views = []
    for view in scene.file.views:
        image = view.image if view.image_sha256 is None else f"images/{view.name}{Path(view.image).suffix}"
        mask = view.mask if view.mask is None or view.mask_sha256 is None else f"masks/{view.name}.png"
        views.append(msgspec.structs.replace(view, image=image, mask=mask))
        if images:
            _put_file(archive, f"{folder}/{image}", scene.image_path(view.name))
        if mask is not None:
            _put_file(archive, f"{folder}/{mask}", scene.mask_path(view.name))
    moved = msgspec.structs.replace(scene.file, views=views)
    _put(archive, f"{folder}/scene.json", msgspec.json.format(msgspec.json.encode(moved), indent=1))
    truth = scene.path / "truth"
    files = [path for kind in sorted(kinds) for path in sorted((truth / kind).rglob("*")) if path.is_file()]
    for path in [*files, *filter(Path.is_file, [scene.path / "quality.json"])]:
        _put_file(archive, f"{folder}/{path.relative_to(scene.path).as_posix()}", path)


@contextlib.contextmanager
def _opened(bundle: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(bundle) as archive:
            yield archive
    except (*DAMAGED, OSError) as error:
        raise InputError(f"{bundle.name}: not a readable bundle ({error})") from error


def unpack(bundle: Path, into: Path) -> tuple[Manifest, list[str]]:
    """Write the files of `bundle` below the folder `into`, and read what it says of itself.

    Returns with it a sentence on each file that no bundle holds, or that is damaged: these are left out. InputError
    where the whole cannot be read: no zip file, cut, too many or too large files, no manifest, a newer format."""
    refused: list[str] = []
    with _opened(bundle) as archive:
        entries = archive.infolist()
        if len(entries) > MOST_FILES:
            raise InputError(f"{bundle.name}: {len(entries)} files seen, {MOST_FILES} at most wanted")
        total, packed = sum(entry.file_size for entry in entries), bundle.stat().st_size
        free = shutil.disk_usage(into.parent).free
        if total > min(MOST_BYTES, MOST_RATIO * packed + SPARE, free):
            raise InputError(f"{bundle.name}: {packed} bytes that unpack to {total} seen, too many for a bundle")
        known: set[str] = set()
        for entry in entries:
            if reason := _fault(entry, known):
                refused.append(f"{entry.filename[:200]!r}: {reason}")
                continue
            known.add(entry.filename)
            target = into.joinpath(*PurePosixPath(entry.filename).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(entry) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, PIECE)
            except (*DAMAGED, OSError) as error:
                target.unlink(missing_ok=True)
                refused.append(f"{entry.filename}: damaged ({error})")
    return _manifest(bundle, into / MANIFEST), refused


def _fault(entry: zipfile.ZipInfo, known: set[str]) -> str:
    """Why a file is left out; "" where it is one that a bundle holds."""
    if not NAMES.fullmatch(entry.filename) or ".." in PurePosixPath(entry.filename).parts:
        return "a name that no file of a bundle has"
    if entry.filename in known:
        return "a second file of that name"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "a link or a device seen, a file wanted"
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "encrypted, or packed in a way that no bundle is"
    if entry.file_size > MOST_RATIO * entry.compress_size + SPARE:
        return f"{entry.compress_size} bytes that unpack to {entry.file_size} seen, too many for a file of a bundle"
    if entry.filename.endswith(".json") and entry.file_size > MOST_RECORD:
        return f"{entry.file_size} bytes seen, {MOST_RECORD} at most wanted"
    return ""


class _Format(msgspec.Struct):
    format: int


def _manifest(bundle: Path, path: Path) -> Manifest:
    try:
        content = path.read_bytes()
        if (seen := msgspec.json.decode(content, type=_Format).format) != FORMAT:
            raise InputError(f"{bundle.name}: a bundle of format {seen} seen, {FORMAT} wanted")
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        reason = "is not in it, or damaged" if isinstance(error, OSError) else str(error)
        raise InputError(f"{bundle.name}: {MANIFEST}: {reason}") from error

"""Bundles checked: every score computed again from the bundled prediction, and compared with what the bundle claims.

A bundle comes from a stranger. It is unpacked, read and scored behind the walls, with the limits of a trial; findings
come out as lines of known fields, and records and arrays as a store, which is read as untrusted as any other.

What is shown so: the scores follow from the predictions, under this installation's code and truths. Not shown: that a
prediction was made by the system it names, nor what it cost there."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from adapters.contract import ContractError, InputError, Unavailable
from bench.scoring.bundle import BundledScene, Manifest, unpack
from bench.scoring.score import score_trial
from bench.systems import walls
from bench.systems.process import own_tool, run_tool, with_links
from bench.trials.records import Origin, ScoreRecord, TrialRecord
from bench.trials.scenes import OBJECTS, embedded_scenes
from bench.trials.store import Problem, Store
from data.scene import Scene, truth_id
from metrics.points import device_of
from metrics.scoring.identity import scoring_code
from metrics.scoring.protocol import Protocol

Verdict = Literal["equal", "differs", "unchecked", "unreadable"]
EXIT_CODES: dict[Verdict, int] = {"equal": 0, "differs": 1, "unreadable": 2, "unchecked": 3}
NOTHING = 4  # the exit code where no score was there to check
DEADLINE = 12 * 3600.0  # seconds for one bundle
ROUNDING = 1e-9  # relative, absolute below 1: what another processor's order of sums may move, as in the gate
MOST_SAMPLES, MOST_EMD = 1_000_000, 16_384  # of a stranger's protocol
SHOWN = 20  # values named of one score
LONGEST = 500  # letters of a sentence


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of one score of a bundle, or of a file that could not be read."""

    what: str
    verdict: Verdict
    trials: list[str] = []  # keys: one answer may be that of several
    values: int = 0  # compared
    rounded: int = 0  # of them, equal but for rounding
    lines: list[str] = []  # what differs, or why nothing was compared


class _Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the program behind the walls is asked."""

    bundle: str
    scenes: list[str]  # folders of Scenes on this machine


@dataclass(frozen=True)
class Verified:
    """What came of one bundle."""

    name: str
    sha256: str
    findings: tuple[Finding, ...]
    hardware: tuple[str, ...] = ()  # of its trials
    environments: tuple[str, ...] = ()  # adapter, and the hash of what it ran in
    trials: int = 0

    @property
    def verdict(self) -> Verdict | None:
        """The gravest of its findings; None where there was no score."""
        grave: tuple[Verdict, ...] = ("differs", "unreadable", "unchecked", "equal")
        verdicts = {finding.verdict for finding in self.findings}
        return next((verdict for verdict in grave if verdict in verdicts), None)

    def origin(self, key: str) -> Origin:
        """Where the trial of this key came from, and whether all of its scores were equal."""
        own = [finding for finding in self.findings if key in finding.trials]
        bad = [finding for finding in own if finding.verdict != "equal"]
        why = f"{bad[0].what}: {'; '.join(bad[0].lines)}"[:LONGEST] if bad else ""
        return Origin(self.name, self.sha256, not bad if own else None, why)


def exit_code(bundles: Sequence[Verified]) -> int:
    """0: every score equal; 1: one differs; 2: something could not be read; 3: or not be computed here; 4: no score."""
    grave: tuple[Verdict, ...] = ("differs", "unreadable", "unchecked", "equal")
    verdicts = {bundle.verdict for bundle in bundles}
    return next((EXIT_CODES[verdict] for verdict in grave if verdict in verdicts), NOTHING)


def verify(
    bundle: Path,
    scenes: Sequence[Path] = (),
    into: Store | None = None,
    tell: Callable[[Finding], None] = lambda finding: None,
) -> Verified:
    """Compute every score of `bundle` again, behind the walls; each finding goes to `tell` as it comes.

    The truths of embedded scenes are those of this installation; of scenes that the bundle names without holding them
    they are looked for among the Scene directories `scenes`. `into` gets the trials, with the scores that were computed
    here, each trial with its origin."""
    findings: list[Finding] = []

    def note(finding: Finding) -> None:
        findings.append(finding)
        tell(finding)

    def read(line: bytes) -> None:
        try:
            note(msgspec.json.decode(line, type=Finding))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # printed by a library

    def unreadable(error: Exception, sha256: str = "") -> Verified:
        note(Finding(bundle.name, "unreadable", lines=[str(error)[:LONGEST]]))
        return Verified(bundle.name, sha256, tuple(findings))

    try:
        if not stat.S_ISREG(bundle.stat().st_mode):
            raise InputError(f"{bundle}: not a regular file seen, a bundle wanted")
        with bundle.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except (InputError, OSError) as error:
        return unreadable(error)
    with walls.work_folder() as folder:
        made, asked = folder / "work" / "store", folder / "work" / "job.json"
        made.mkdir(parents=True)
        asked.write_bytes(msgspec.json.encode(_Job(str(bundle.resolve()), [str(path.resolve()) for path in scenes])))
        outside = (path for scene in scenes for path in Scene.open(scene).outside)
        places = [path for source in (bundle.resolve(), *scenes, *outside) for path in with_links(source)]
        main = "bench.scoring.verify:main"
        tool = own_tool(bundle.name, main, [asked, made], folder, [walls.HOUSE / "bench", *places], DEADLINE)
        try:
            run_tool(tool, read)
            done = Verified(bundle.name, sha256, tuple(findings))
            return _adopted(done, Store(made), into, scenes, note)
        except (InputError, ContractError, OSError) as error:
            return unreadable(error, sha256)


def _adopted(
    done: Verified, made: Store, into: Store | None, scenes: Sequence[Path], note: Callable[[Finding], None]
) -> Verified:
    """The same with what its records say of machines; `into` gets them, told apart from what it has."""
    records = made.trials()
    places = {str(path) for group in ("", OBJECTS) for path in embedded_scenes(group).values()}
    places |= {str(path.resolve()) for path in scenes}
    inside = made.path / "scenes"
    scenes_into = into.path.resolve() / "scenes" if into is not None else inside
    taken = {record.scene: record.scene_path for record in (into.trials() if into is not None else [])}
    for place in places:  # an embedded scene's name is its own
        taken[Scene.open(Path(place)).name] = place
    findings = list(done.findings)
    for record in records:
        path = Path(record.scene_path)
        if str(path) not in places:
            if path.parent != inside or not path.is_dir():
                raise InputError(
                    f"{done.name}: trial {record.key}: scene {record.scene_path[:80]!r} seen, one of its own wanted"
                )
            path = scenes_into / path.name
        name = record.scene
        if taken.setdefault(name, str(path)) != str(path):
            name = f"{name} {path.name[:6]}"
        plain = msgspec.structs.replace(record, scene=name, scene_path=str(path), origin=done.origin(record.key))
        known = into.trial(record.key) if into is not None else None
        if known is not None and known.origin != plain.origin:
            made_by = "that was run here" if known.origin is None else f"of {known.origin.bundle}"
            line = f"the store has a trial of this key {made_by}: this one is left out"
            note(finding := Finding(f"trials/{record.key}.json", "unreadable", lines=[line]))
            findings.append(finding)
            (made.path / "trials" / f"{record.key}.json").unlink()
            continue
        made.put_trial(plain)
    if into is not None:
        for scene in sorted(inside.glob("*")):
            _alone(Scene.open(scene))
            if any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in [scene, *scene.rglob("*")]):
                raise InputError(f"{done.name}: {scene.name}: neither a file nor a folder seen")
            if not (scenes_into / scene.name).exists():
                shutil.copytree(scene, scenes_into / scene.name)
        into.merge(made)
    machines = tuple(dict.fromkeys(str(record.hardware) for record in records))
    ran = sorted({f"{record.adapter} {record.environment}" for record in records if record.environment})
    return Verified(done.name, done.sha256, tuple(findings), machines, tuple(ran), len(records))


def main(job: str, made: str) -> None:
    """The program behind the walls: a `Finding` a line on standard output, the store in `made`."""
    asked = msgspec.json.decode(Path(job).read_bytes(), type=_Job)
    for finding in check_bundle(Path(asked.bundle), Path(made), [Scene.open(Path(path)) for path in asked.scenes]):
        short = [line[:LONGEST] for line in finding.lines[:SHOWN]]
        if len(finding.lines) > SHOWN:
            short.append(f"... and {len(finding.lines) - SHOWN} more")
        sys.stdout.buffer.write(
            msgspec.json.encode(msgspec.structs.replace(finding, what=finding.what[:LONGEST], lines=short)) + b"\n"
        )
        sys.stdout.flush()


def check_bundle(bundle: Path, made: Path, scenes: Sequence[Scene] = ()) -> Iterator[Finding]:
    """Unpack `bundle` into the store folder `made`, compute its scores again and compare; a finding for each score and
    for each file that cannot be read. The store keeps what was computed here, not what was claimed."""
    try:
        manifest, refused = unpack(bundle, made)
    except InputError as error:
        yield Finding(bundle.name, "unreadable", lines=[str(error)])
        return
    for sentence in refused:
        yield Finding(sentence.partition(": ")[0], "unreadable", lines=[sentence.partition(": ")[2]])
    store, broken = Store(made), set[str]()
    for problem in store.problems():
        broken.add(problem.path.stem)
        yield _of_problem(problem, store)
        problem.path.unlink(missing_ok=True)
    claims = store.scores()
    shutil.rmtree(made / "scores", ignore_errors=True)
    here = _Here(manifest, store, {scene.name: scene for scene in scenes})
    of: dict[str, list[TrialRecord]] = {}
    for record in store.trials():
        path = store.path / "trials" / f"{record.key}.json"
        try:
            if record.prediction in broken:
                raise InputError(f"its prediction {record.prediction} cannot be read")
            scene = here.scene(record.scene_path)
        except InputError as error:
            path.unlink()
            yield Finding(f"trials/{record.key}.json", "unreadable", [record.key], lines=[str(error)])
            continue
        placed = msgspec.structs.replace(record, scene_path=str(scene.path) if scene is not None else "")
        if scene is None:
            path.unlink()  # nothing of it can be shown: what it is of is not here
        else:
            store.put_trial(placed)
        of.setdefault(record.scored_as, []).append(placed)
    claimed: set[str] = set()
    for claim in claims:
        yield (finding := _checked(claim, of.get(claim.of, []), store, here))
        claimed.update(finding.trials)
    for record in itertools.chain.from_iterable(of.values()):
        if record.key not in claimed and not record.timed_only:
            why = "no score of it is in the bundle"
            yield Finding(f"trials/{record.key}.json", "unchecked", [record.key], lines=[why])


def _of_problem(problem: Problem, store: Store) -> Finding:
    name = problem.path.relative_to(store.path).as_posix()
    sentence = problem.sentence.replace(f"{store.path}/", "").removeprefix(f"{name}: ")
    return Finding(name, "differs" if problem.altered else "unreadable", lines=[sentence])


class _Here:
    """What of a bundle's manifest is here: scenes and protocols."""

    def __init__(self, manifest: Manifest, store: Store, local: dict[str, Scene]) -> None:
        self._manifest, self._store, self._local = manifest, store, local
        self._scenes: dict[str, Scene | None] = {}
        self.same_code = manifest.code == scoring_code()

    def scene(self, name: str) -> Scene | None:
        """The scene of that name in the bundle's records; None where it is neither in the bundle nor here."""
        if name not in self._scenes:
            bundled = self._manifest.scenes.get(name)
            if bundled is None:
                raise InputError(f"scene {name[:80]!r} seen, one that the bundle names wanted")
            self._scenes[name] = self._open(bundled)
        return self._scenes[name]

    def _open(self, bundled: BundledScene) -> Scene | None:
        if bundled.embedded:
            known = embedded_scenes() | embedded_scenes(OBJECTS)
            if bundled.name not in known:
                raise InputError(f"{bundled.name[:80]!r} is no scene that is embedded here")
            return Scene.open(known[bundled.name])
        if not bundled.folder:
            return self._local.get(bundled.name)
        scene = _alone(Scene.open(self._store.path / bundled.folder))
        # Under a name that says what it is, so that bundles that hold the same scene share it.
        images = {scene.path / view.image for view in scene.file.views}
        digest = hashlib.sha256()
        for path in sorted(path for path in scene.path.rglob("*") if path.is_file() and path not in images):
            digest.update(path.relative_to(scene.path).as_posix().encode() + b"\0" + path.read_bytes())
        return Scene.open(scene.path.rename(scene.path.with_name(digest.hexdigest()[:16])))

    def protocol(self, digest: str) -> Protocol:
        """InputError where it is not in the bundle, or is not what its hash says."""
        protocol = self._manifest.protocols.get(digest)
        if protocol is None:
            raise InputError(f"protocol {digest} is not in the bundle")
        protocol.check(f"protocol {digest}")
        if protocol.samples > MOST_SAMPLES or protocol.emd_samples > MOST_EMD:
            raise InputError(f"protocol {digest}: more than {MOST_SAMPLES} samples or {MOST_EMD} of an EMD asked for")
        if self.same_code and protocol.hash != digest:
            raise InputError(f"protocol {digest}: what the bundle holds under that hash has the hash {protocol.hash}")
        return protocol


def _alone(scene: Scene) -> Scene:
    """The same; InputError where it names files outside its own folder, which none in a bundle does."""
    if scene.outside:
        raise InputError(f"scene {scene.name[:80]!r}: files outside its own folder seen, none wanted in a bundle")
    return scene


def _checked(claim: ScoreRecord, records: list[TrialRecord], store: Store, here: _Here) -> Finding:
    """One score computed again. `records` gave the answer that it is of, maybe on several scenes: it is that of those
    whose truth it names."""
    name = f"scores/{claim.of}.{claim.protocol_hash}.{claim.truth_id}.json"
    if not records:
        return Finding(name, "unreadable", lines=["the trial that it is of, or its prediction, is not in the bundle"])
    scenes = {record.scene_path: Scene.open(Path(record.scene_path)) for record in records if record.scene_path}
    ids = {path: truth_id(scene.path / "truth" / claim.truth) for path, scene in scenes.items()}
    own = [record for record in records if ids.get(record.scene_path) == claim.truth_id]
    own = own or [record for record in records if not record.scene_path] or records
    record, keys = own[0], [record.key for record in own]
    what = f"{record.system} on {record.scene}, {len(record.views)} views, seed {record.seed}: "
    what += f"{claim.protocol} under the {claim.truth} truth"
    if not record.scene_path:
        return Finding(what, "unchecked", keys, lines=[f"scene {record.scene} is not here: --scenes names it"])
    scene = scenes[record.scene_path]
    try:
        if claim.truth not in scene.truth_kinds:
            raise InputError(f"{record.scene} has no {claim.truth} truth")
        if (here_id := ids[record.scene_path]) != claim.truth_id:
            raise InputError(f"truth {claim.truth_id} was scored against, {here_id} is here")
        protocol = here.protocol(claim.protocol_hash)
        device_of(protocol.backend)
        if any(not scene.image_path(view).is_file() for view in record.targets):
            raise InputError("its renderings are compared with photos, which the bundle does not hold (--images)")
    except (InputError, Unavailable) as error:
        return Finding(what, "unchecked", keys, lines=[str(error)])
    try:
        again = score_trial(store, record, scene, claim.truth, protocol, again=True)
    except InputError as error:
        return Finding(what, "unreadable", keys, lines=[str(error)])
    compared = compare(claim, again)
    lines = compared.lines
    if lines and not here.same_code:
        lines.append("the bundle was scored by another version of the instruments")
    return Finding(what, "differs" if lines else "equal", keys, compared.values, compared.rounded, lines)


@dataclass
class Compared:
    """Two score records, value by value."""

    values: int
    rounded: int
    lines: list[str]  # a sentence on each value that differs


def compare(claim: ScoreRecord, again: ScoreRecord) -> Compared:
    """Every value that the two hold, but for their trial's key and the hash of protocol and code."""
    claimed, computed = _flat(claim), _flat(again)
    done = Compared(len(computed), 0, [])
    for name in dict.fromkeys(itertools.chain(claimed, computed)):
        first, second = claimed.get(name, "nothing"), computed.get(name, "nothing")
        if first == second:
            continue
        if isinstance(first, float | int) and isinstance(second, float | int) and _close(first, second):
            done.rounded += 1
            continue
        done.lines.append(f"{name}: {first!r} in the bundle, {second!r} computed again")
    return done


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= ROUNDING * max(1.0, abs(second))


def _flat(score: ScoreRecord) -> dict[str, object]:
    parts = msgspec.to_builtins(score)
    for name in ("format", "trial", "protocol_hash"):
        del parts[name]
    values, stages, notes = parts.pop("values"), parts.pop("stages"), parts.pop("notes")
    out = dict(parts)
    for value in values:
        metric = value.pop("metric")
        out |= {metric if name == "value" else f"{metric} {name}": each for name, each in value.items()}
    for stage in stages:
        matrix = stage.pop("truth_from_pred")
        stage |= {f"[{i}][{j}]": x for i, row in enumerate(matrix) for j, x in enumerate(row)}
        out |= {f"stage {stage['name']} {name}": each for name, each in stage.items()}
    return out | {"notes": "; ".join(notes), "truth_made_by": ", ".join(out["truth_made_by"])}

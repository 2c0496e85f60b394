"""Results that travel: a bundle of a store, computed again elsewhere; and bundles from people who lie."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from adapters.contract import InputError
from bench.cli import main
from bench.engines.local import run_plan
from bench.scoring import bundle as bundles
from bench.scoring import verify
from bench.scoring.bundle import write_bundle
from bench.scoring.verify import Finding, Verified, check_bundle, compare, exit_code
from bench.systems.measure import Policy
from bench.trials.plan import plan
from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite
from data.scene import Scene, truth_id
from metrics.scoring.protocol import Protocol

QUICK = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=60.0)
PROTOCOL = """name = "quick"
version = 1
description = "For tests."
samples = 300
emd_draws = 0
"""
Contents = dict[str, bytes]


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("protocol") / "quick.toml"
    path.write_text(PROTOCOL)
    return path


@pytest.fixture(scope="module")
def good(scene_path: Path, protocol: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two predictions and a failure, scored."""
    path = tmp_path_factory.mktemp("stores") / "good"
    contestants = [Contestant(name="oracle"), Contestant(name="noisy-oracle", views=(3,), options={"noise": 0.02})]
    suite = Suite(
        name="t", scenes=[str(scene_path)], adapters=contestants, views=(3,), policy=QUICK, truth="exact"
    )  # fmt: skip
    run_plan(plan(suite), Store(path), protocol=str(protocol), truth="exact")
    assert len(Store(path).scores()) == 2
    return path


@pytest.fixture(scope="module")
def packed(good: Path, protocol: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "lab.zip"
    done = write_bundle(Store(good), path, [str(protocol)])
    assert (done.trials, done.scores, done.scenes) == (2, 2, 1) and done.left_out == ()
    return path


@pytest.fixture(scope="module")
def computed() -> dict[tuple[str, ...], ScoreRecord]:
    return {}


@pytest.fixture(autouse=True)
def _once(computed: dict[tuple[str, ...], ScoreRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed again is computed once: prediction, truth and protocol decide it."""
    real = verify.score_trial

    def score_trial(store: Store, record: TrialRecord, scene: Scene, kind: str, protocol: Protocol, again: bool) -> Any:
        key = (record.scored_as, truth_id(scene.path / "truth" / kind), protocol.hash)
        if key not in computed:
            computed[key] = real(store, record, scene, kind, protocol, again=again)
        return computed[key]

    monkeypatch.setattr(verify, "score_trial", score_trial)


def contents(bundle: Path) -> Contents:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path: Path, files: Contents) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return path


def first(files: Contents, kind: str) -> str:
    return sorted(name for name in files if name.startswith(kind))[0]


def edit(files: Contents, name: str, change: Callable[[dict[str, object]], None]) -> None:
    record = json.loads(files[name])
    change(record)
    files[name] = json.dumps(record).encode()


def check(bundle: Path, tmp_path: Path) -> list[Finding]:
    (tmp_path / "made").mkdir()
    return list(check_bundle(bundle, tmp_path / "made"))


def verdicts(bundle: Path, tmp_path: Path) -> dict[str, int]:
    findings = check(bundle, tmp_path)
    return {verdict: sum(f.verdict == verdict for f in findings) for verdict in {f.verdict for f in findings}}


def test_a_bundle_holds_what_computing_its_scores_again_needs(packed: Path, good: Path, tmp_path: Path) -> None:
    files = contents(packed)
    kinds = {name.partition("/")[0] for name in files}
    assert kinds == {"bundle.json", "trials", "scores", "predictions", "scenes"}
    assert not [name for name in files if "/images/" in name]  # unless asked
    assert [name for name in files if name.endswith("truth.json")]
    whole = b"".join(files[name] for name in files if name.endswith(".json"))
    assert str(good).encode() not in whole and str(Path.home()).encode() + b"/" not in whole
    again = write_bundle(Store(good), tmp_path / "again.zip", [])  # without the test's own protocol
    assert again.scores == 0 and "protocols not named" in again.left_out[0]


def test_one_answer_on_two_scenes_is_checked_under_the_truth_of_each(
    scene_path: Path, protocol: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(scene_path, other)
    (other / "truth" / "exact" / "note.txt").write_text("another truth")
    for photo in (other / "images").iterdir():
        Image.open(photo).transpose(Image.Transpose.ROTATE_180).save(photo)
    suite = Suite(
        name="t",
        scenes=[str(scene_path), str(other)],
        adapters=[Contestant(name="oracle")],
        views=(3,),
        policy=QUICK,
        truth="exact",
    )
    store = Store(tmp_path / "store")
    run_plan(plan(suite), store, protocol=str(protocol), truth="exact")
    assert len({record.scored_as for record in store.trials()}) == 1 and len(store.scores()) == 2
    done = write_bundle(store, tmp_path / "lab.zip", [str(protocol)])
    assert (done.trials, done.scores, done.scenes, done.left_out) == (2, 2, 2, ())
    findings = check(tmp_path / "lab.zip", tmp_path)
    assert [finding.verdict for finding in findings] == ["equal"] * 2, findings
    assert sorted(key for finding in findings for key in finding.trials) == sorted(r.key for r in store.trials())


def test_the_same_store_gives_the_same_bytes(packed: Path, good: Path, protocol: Path, tmp_path: Path) -> None:
    write_bundle(Store(good), tmp_path / "twice.zip", [str(protocol)])
    assert (tmp_path / "twice.zip").read_bytes() == packed.read_bytes()


def test_every_score_is_computed_again_to_the_last_digit(packed: Path, tmp_path: Path) -> None:
    findings = check(packed, tmp_path)
    assert [finding.verdict for finding in findings] == ["equal", "equal"]
    assert all(finding.values > 50 and finding.rounded == 0 for finding in findings)
    assert exit_code([Verified("lab.zip", "", tuple(findings))]) == 0


Change = Callable[[Contents], None]


@dataclass(frozen=True)
class Attack:
    """What is done to a bundle, the exit code that it earns, and a pattern of what is told of it."""

    change: Change
    code: int
    sentence: str
    of_one_record: bool  # the others are computed again all the same


ATTACKS: dict[str, Attack] = {}


def hostile(code: int, sentence: str, of_one_record: bool = False) -> Callable[[Change], Change]:
    def added(change: Change) -> Change:
        ATTACKS[change.__name__] = Attack(change, code, sentence, of_one_record)
        return change

    return added


@hostile(1, r"fscore@1%: 0.987654321 in the bundle, 0.* computed again", of_one_record=True)
def altered_score(files: Contents) -> None:
    def change(record: dict[str, object]) -> None:
        for value in record["values"]:  # type: ignore[attr-defined]
            if value["metric"] == "fscore@1%":
                value["value"] = 0.987654321

    edit(files, first(files, "scores/"), change)


@hostile(1, "as good as it gets", of_one_record=True)
def altered_note(files: Contents) -> None:
    edit(files, first(files, "scores/"), lambda record: record.update(notes=["as good as it gets"]))


@hostile(1, "its content is not what its name says", of_one_record=True)
def altered_prediction(files: Contents) -> None:
    name = first(files, "predictions/")
    with np.load(io.BytesIO(files[name])) as old:
        arrays = {key: old[key] for key in old.files}
    arrays["points"] = arrays["points"] * np.float32(0.999)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    files[name] = file.getvalue()


@hostile(2, "its prediction .* is not in the store", of_one_record=True)
def missing_prediction(files: Contents) -> None:
    del files[first(files, "predictions/")]


@hostile(2, "the trial that it is of.*is not in the bundle", of_one_record=True)
def missing_trial(files: Contents) -> None:
    del files[first(files, "trials/")]


@hostile(3, "truth .* was scored against, .* is here")
def missing_truth(files: Contents) -> None:
    del files[next(name for name in files if name.endswith("mesh.ply"))]


@hostile(3, "truth .* was scored against, .* is here")
def altered_truth(files: Contents) -> None:
    name = next(name for name in files if name.endswith("exact/cameras.json"))
    files[name] = files[name].replace(b"110.0", b"111.0")


@hostile(2, "truncated", of_one_record=True)
def cut_record(files: Contents) -> None:
    name = first(files, "trials/")
    files[name] = files[name][:-20]


@hostile(2, "brilliant", of_one_record=True)
def nonsense_in_a_score(files: Contents) -> None:
    edit(files, first(files, "scores/"), lambda record: record.update(brilliant=True))


@hostile(3, "under that hash has the hash")
def another_protocol_under_the_hash(files: Contents) -> None:
    def change(record: dict[str, object]) -> None:
        for protocol in record["protocols"].values():  # type: ignore[attr-defined]
            protocol["thresholds"] = [0.05, 0.01]

    edit(files, "bundle.json", change)


@hostile(3, "protocol .* is not in the bundle")
def protocol_not_there(files: Contents) -> None:
    edit(files, "bundle.json", lambda record: record.update(protocols={}))


@hostile(3, "more than 1000000 samples")
def endless_protocol(files: Contents) -> None:
    def change(record: dict[str, object]) -> None:
        for protocol in record["protocols"].values():  # type: ignore[attr-defined]
            protocol["samples"] = 10**12

    edit(files, "bundle.json", change)


@hostile(3, "truth .* was scored against, .* is here")
def embedded_by_name_alone(files: Contents) -> None:
    def change(record: dict[str, object]) -> None:
        for scene in record["scenes"].values():  # type: ignore[attr-defined]
            scene.update(embedded=True, name="elephant", folder="")

    edit(files, "bundle.json", change)


@hostile(2, "files outside its own folder")
def scene_that_reaches_out(files: Contents) -> None:
    def change(record: dict[str, object]) -> None:
        record["views"][0].update(image="../../../../../etc/hostname", image_sha256="0" * 64)  # type: ignore[index]

    edit(files, next(name for name in files if name.endswith("scene.json")), change)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_is_not_so_is_named_and_the_rest_is_computed(attack: Attack, packed: Path, tmp_path: Path) -> None:
    files = contents(packed)
    attack.change(files)
    findings = check(zipped(tmp_path / "lab.zip", files), tmp_path)
    assert exit_code([Verified("lab.zip", "", tuple(findings))]) == attack.code
    told = "\n".join(line for finding in findings for line in finding.lines)
    assert re.search(attack.sentence, told), told
    if attack.of_one_record:
        assert sum(finding.verdict == "equal" for finding in findings) == 1  # one bad record is one bad record


def test_no_name_leads_out(packed: Path, tmp_path: Path) -> None:
    names = ["../evil.json", "/etc/evil", "trials/../../evil.json", "scenes/0/../../../evil", "scenes/0/.hidden"]
    names += ["a\\b", "x.py", "scenes/0/a/b/c/d/e/f.json", "trials/", "scenes/0/\u202egpj.exe"]
    before = set(tmp_path.parent.rglob("*evil*"))
    findings = check(zipped(tmp_path / "lab.zip", contents(packed) | dict.fromkeys(names, b"owned")), tmp_path)
    assert set(tmp_path.parent.rglob("*evil*")) == before and not Path("/etc/evil").exists()
    refused = [finding.lines for finding in findings if finding.verdict == "unreadable"]
    assert refused == [["a name that no file of a bundle has"]] * len(names)
    assert sum(finding.verdict == "equal" for finding in findings) == 2


def test_a_link_is_not_followed(packed: Path, tmp_path: Path) -> None:
    files = contents(packed)
    name = first(files, "predictions/")
    del files[name]
    path = zipped(tmp_path / "lab.zip", files)
    link = zipfile.ZipInfo(name)
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    told = [line for finding in check(path, tmp_path) for line in finding.lines]
    assert "a link or a device seen, a file wanted" in told
    assert not any(path.is_symlink() for path in (tmp_path / "made").rglob("*"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_files_of_one_name_the_first_counts(packed: Path, tmp_path: Path) -> None:
    files = contents(packed)
    path = zipped(tmp_path / "lab.zip", files)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(first(files, "scores/"), b"{}")
    assert verdicts(path, tmp_path) == {"equal": 2, "unreadable": 1}


def test_a_bomb_is_refused_before_it_is_unpacked(packed: Path, tmp_path: Path) -> None:
    bomb = {"predictions/" + "0" * 24 + ".npz": bytes(100 * 2**20)}
    findings = check(zipped(tmp_path / "lab.zip", contents(packed) | bomb), tmp_path)
    assert [finding.verdict for finding in findings] == ["unreadable", "equal", "equal"]
    assert "unpack to 104857600 seen, too many" in findings[0].lines[0]
    assert not (tmp_path / "made" / "predictions" / ("0" * 24 + ".npz")).exists()
    (tmp_path / "again").mkdir()
    (alone,) = check_bundle(zipped(tmp_path / "bomb.zip", bomb), tmp_path / "again")
    assert alone.verdict == "unreadable" and "too many for a bundle" in alone.lines[0]


def test_a_bomb_inside_a_prediction_is_that_prediction_s(packed: Path, tmp_path: Path) -> None:
    """An array whose header promises more than the file has."""
    files = contents(packed)
    name = first(files, "predictions/")
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 3), }"
    npz = io.BytesIO()
    with zipfile.ZipFile(npz, "w") as archive:
        archive.writestr("points.npy", header.ljust(127) + b"\n")
    files[name] = npz.getvalue()
    counted = verdicts(zipped(tmp_path / "lab.zip", files), tmp_path)
    assert counted["equal"] == 1 and counted["unreadable"] >= 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_cut_file_is_one_sentence(share: float, packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: int(share * len(whole))])
    (finding,) = check(tmp_path / "cut.zip", tmp_path)
    assert finding.verdict == "unreadable" and "not a readable bundle" in finding.lines[0]


def test_a_damaged_byte_is_that_file_s(packed: Path, tmp_path: Path) -> None:
    whole = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:
        entry = archive.getinfo(first(contents(packed), "predictions/"))
    whole[entry.header_offset + 2000] ^= 0xFF
    (tmp_path / "lab.zip").write_bytes(whole)
    counted = verdicts(tmp_path / "lab.zip", tmp_path)
    assert counted["equal"] == 1 and counted["unreadable"] >= 1 and set(counted) == {"equal", "unreadable"}


def test_another_version_of_the_instruments_is_computed_and_told(packed: Path, tmp_path: Path) -> None:
    files = contents(packed)
    edit(files, "bundle.json", lambda record: record.update(code="0" * 16))
    path = zipped(tmp_path / "old.zip", files)
    assert verdicts(path, tmp_path) == {"equal": 2}  # what counts is what they measure
    altered_score(files)
    shutil.rmtree(tmp_path / "made")
    told = [line for f in check(zipped(path, files), tmp_path) if f.verdict == "differs" for line in f.lines]
    assert told[-1] == "the bundle was scored by another version of the instruments"


@pytest.mark.parametrize(("format", "sentence"), [(99, "format 99 seen, 1 wanted"), ("x", "Expected `int`")])
def test_another_format_is_refused_whole(format: object, sentence: str, packed: Path, tmp_path: Path) -> None:
    files = contents(packed)
    edit(files, "bundle.json", lambda record: record.update(format=format))
    (finding,) = check(zipped(tmp_path / "lab.zip", files), tmp_path)
    assert finding.verdict == "unreadable" and sentence in finding.lines[0]


def test_without_truths_a_scene_is_known_by_its_identity(
    good: Path, protocol: Path, scene: Scene, tmp_path: Path
) -> None:
    path = tmp_path / "lab.zip"
    assert write_bundle(Store(good), path, [str(protocol)], truths=False).scenes == 0
    assert not [name for name in contents(path) if name.startswith("scenes/")]
    findings = check(path, tmp_path)
    assert {f.verdict for f in findings} == {"unchecked"} and "--scenes" in findings[0].lines[0]
    (tmp_path / "again").mkdir()
    assert {f.verdict for f in check_bundle(path, tmp_path / "again", [scene])} == {"equal"}


def test_rounding_is_equal_and_counted() -> None:
    values = [{"metric": "emd", "unit": "%", "better": "lower", "status": "ok", "value": 0.5}]
    fields = {"truth": "exact", "truth_id": "x", "truth_made_by": [], "protocol": "p", "protocol_version": 1}
    fields |= {"protocol_hash": "h", "stages": [], "points": 7, "unobserved": 0, "notes": [], "trial": "t"}
    claim = msgspec.convert({**fields, "values": values}, ScoreRecord)
    values[0]["value"] = float(np.nextafter(0.5, 1))
    done = compare(claim, msgspec.convert({**fields, "values": values}, ScoreRecord))
    assert (done.rounded, done.lines) == (1, [])
    values[0]["value"] = 0.5 + 1e-8
    done = compare(claim, msgspec.convert({**fields, "values": values, "points": 8}, ScoreRecord))
    assert done.rounded == 0 and [line.partition(":")[0] for line in done.lines] == ["points", "emd"]


def test_a_store_of_nothing_makes_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished trial"):
        write_bundle(Store(tmp_path), tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def lying(packed: Path, path: Path) -> Path:
    files = contents(packed)
    altered_score(files)
    return zipped(path, files)


@pytest.mark.slow
def test_a_leaderboard_of_bundles_says_where_each_row_came_from(
    packed: Path, good: Path, protocol: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The commands, behind the walls: an honest bundle, one that lies, one that is no bundle."""
    liar, broken = lying(packed, tmp_path / "liar.zip"), tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04")
    assert run("verify", packed, "--into", tmp_path / "store") == 0
    assert "2 of 2 scores equal" in capfd.readouterr().out
    assert {trial.origin.verified for trial in Store(tmp_path / "store").trials() if trial.origin} == {True}
    assert run("verify", liar, broken) == 1
    told = capfd.readouterr().out
    assert "0.987654321 in the bundle" in told and "broken.zip: not a readable bundle" in told
    assert "0 of 0 scores equal (0 values to the last digit); 1 files left out or not read" in told
    # The liar's trials have the keys of the honest ones: they do not take their place.
    assert run("report", packed, broken, "--out", tmp_path / "page", "--protocol", protocol) == 0
    with (tmp_path / "page" / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["origin"].split()[0], row["verified"]) for row in rows} == {("lab.zip", "True")}
    assert all(row["hardware"] for row in rows)
    page = (tmp_path / "page" / "leaderboard.html").read_text()
    assert "lab.zip" in page and ": verified" in page
    assert run("report", liar, "--out", tmp_path / "other", "--protocol", protocol) == 0
    with (tmp_path / "other" / "scores.csv").open() as file:
        scores = list(csv.DictReader(file))
    assert {row["verified"] for row in scores} == {"True", "False"}
    assert "0.987654321" not in {row["value"] for row in scores}  # what was computed here stands
    liars = "\n".join(path.read_text() for path in (tmp_path / "other").rglob("*.html"))
    assert "not verified" in liars and "its bundle claims otherwise" in liars


def test_names_of_a_bundle_hold_every_truth_s_files() -> None:
    for name in ("scenes/0/truth/exact/depth/IMG 001.png", "scenes/12/masks/a-b_c.png", "scenes/0/scene.json"):
        assert bundles.NAMES.fullmatch(name)

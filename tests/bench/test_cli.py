"""The command line: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trimesh
from PIL import Image

from adapters.contract import Reconstruction
from bench.cli import main
from bench.cli.adapters import _in_short
from bench.trials.store import Store
from data.scene import Scene

FAULTY = str(Path(__file__).parent.parent / "faulty")


def call(*arguments: object) -> int:
    """The exit status of the command line with `arguments`."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def photos(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3)).astype(np.uint8)).save(folder / f"{i}.jpg")
    return folder


def truncated(folder: Path, count: int = 3) -> Path:
    path = photos(folder, count) / "1.jpg"
    path.write_bytes(path.read_bytes()[:600])
    return folder


def without_a_mask(folder: Path) -> Path:
    (photos(folder) / "masks").mkdir()
    Image.new("L", (60, 40)).save(folder / "masks" / "0.png")
    return folder


def malformed(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


REFUSALS = {
    "an empty folder": (lambda t: ["run", "--adapters", "colmap", "--images", empty(t / "e")], "e: no image seen"),
    "no folder": (lambda t: ["run", "--adapters", "colmap", "--images", t / "none"], "none: no such folder"),
    "a truncated JPEG": (
        lambda t: ["run", "--adapters", "colmap", "--images", truncated(t / "p")],
        "1.jpg: not a readable image",
    ),
    "one image": (
        lambda t: ["run", "--adapters", "colmap", "--images", photos(t / "p", 1)],
        "1 image seen, adapter colmap wants 2",
    ),
    "a missing mask": (
        lambda t: ["run", "--adapters", "visual-hull", "--images", without_a_mask(t / "p")],
        "no mask 1.png seen for 1.jpg",
    ),
    "an unknown adapter": (lambda t: ["run", "--adapters", "colmpa"], "did you mean colmap"),
    "an unknown scene": (lambda t: ["run", "--adapters", "colmap", "--scenes", "nowhere"], "scene 'nowhere'"),
    "an unknown protocol": (lambda t: ["run", "--protocol", "mine"], "protocol 'mine' is not known"),
    "an unknown suite": (lambda t: ["run", "--suite", "tiny"], "suite 'tiny' is not known; known: embedded"),
    "a malformed suite": (
        lambda t: ["run", "--suite", malformed(t / "s.toml", 'name = "s"\nadapters = 3\n')],
        "Expected `array`, got `int` - at `$.adapters`",
    ),
    "a suite that is no TOML": (lambda t: ["run", "--suite", malformed(t / "s.toml", "name = ")], "s.toml"),
    "a suite with an unknown field": (
        lambda t: ["run", "--suite", malformed(t / "s.toml", 'name = "s"\nadapters = []\nviewz = [1]\n')],
        "unknown field `viewz`",
    ),
    "views that are no numbers": (lambda t: ["run", "--views", "1,two"], "--views: '1,two' seen"),
    "no views": (lambda t: ["run", "--adapters", "null", "--views", "0"], "views 0 seen"),
    "an option without a value": (
        lambda t: ["run", "--adapters", "null", "--option", "noise"],
        "--option: 'noise' seen, NAME=VALUE",
    ),
    "an unknown flag": (lambda t: ["run", "--adaptors", "colmap"], "--adaptors"),
    "an unknown command": (lambda t: ["rnu"], "rnu"),
    "a store without trials": (lambda t: ["score"], "no finished trial seen"),
    "a report of nothing": (lambda t: ["report", "--out", t / "r"], "no finished trial seen"),
    "a cloud without a scene": (lambda t: ["score", "--prediction", t / "x.ply"], "--scene is wanted"),
    "a ground truth of nothing": (lambda t: ["groundtruth", empty(t / "e"), "--out", t / "s"], "e"),
    "a ground truth of one image": (lambda t: ["groundtruth", photos(t / "p", 1), "--out", t / "s"], "1 image"),
    "a ground truth of a truncated JPEG": (
        lambda t: ["groundtruth", truncated(t / "p", 2), "--out", t / "s"],
        "1.jpg: unreadable (not a readable image",
    ),
}


def empty(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("what", REFUSALS)
def test_bad_input_is_one_sentence_exit_code_2_and_an_untouched_store(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, sentence = REFUSALS[what]
    store = tmp_path / "store"
    arguments = make(tmp_path)
    takes_store = arguments[0] in ("run", "score", "report")
    code = call(*arguments, *(["--store", store] if takes_store else []))
    output = " ".join(capsys.readouterr().err.split())
    assert code == 2, output
    assert sentence.split()[0] in output and " ".join(sentence.split()) in output.replace(str(tmp_path) + "/", ""), (
        output
    )
    assert "Traceback" not in output
    assert not store.exists()
    assert not (tmp_path / "s").exists()


def test_odd_but_readable_images_are_read_rightly(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    ramp = np.linspace(0, 255, 60).astype(np.uint8)[None].repeat(40, axis=0)
    Image.fromarray(ramp).save(folder / "grey.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.fromarray(np.dstack([ramp, ramp, ramp, np.full_like(ramp, 255)])).save(folder / "alpha.png")
    rotated = Image.fromarray(np.dstack([ramp, ramp, ramp]))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter: upright is 90 degrees clockwise
    rotated.save(folder / "turned.jpg", exif=exif, quality=95, subsampling=0)
    store = tmp_path / "store"
    assert call("run", "--adapters", FAULTY, "--images", folder, "--store", store, "--repeats", "0") == 0
    (record,) = Store(store).trials()
    assert record.status == "ok" and record.views == ["alpha", "grey", "sixteen", "turned"]
    from data.images import read_image

    for name in ("grey.png", "sixteen.png", "alpha.png"):
        np.testing.assert_array_equal(read_image(folder / name), np.dstack([ramp] * 3))
    upright = read_image(folder / "turned.jpg")
    assert upright.shape == (60, 40, 3)
    assert abs(int(upright[-1, 0, 0]) - 255) < 8 and upright[0, 0, 0] < 8


@pytest.fixture(scope="module")
def store(scene_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "store"
    with pytest.raises(SystemExit) as caught:
        main(
            ["run", "--adapters", f"oracle,noisy-oracle,{FAULTY}", "--scenes", str(scene_path), "--views", "4"]
            + ["--truth", "exact", "--store", str(path), "--repeats", "1"]
        )
    assert caught.value.code == 0
    return path


def test_a_dry_run_prints_trials_time_disk_and_memory_and_writes_nothing(
    scene_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["run", "--adapters", "oracle", "--scenes", scene_path, "--views", "2,4", "--truth", "exact", "--dry-run"]
    assert call(*run, "--store", tmp_path / "store") == 0
    printed = capsys.readouterr().out
    assert printed.count("to run") == 2
    for word in ("2 trials, about", "GiB in", "memory:"):
        assert word in printed
    assert not (tmp_path / "store").exists()
    monkeypatch.setenv("RECONBENCH_CACHE", str(tmp_path / "cache"))
    assert call("run", "--adapters", "vggt", "--scenes", scene_path, "--truth", "exact", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "unavailable" in printed and "to run" not in printed and "1 trials, about 0 s" in printed


def test_a_run_names_what_is_not_installed_and_what_cannot_run_here_apart(
    scene_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECONBENCH_CACHE", str(tmp_path / "cache"))
    run = ["run", "--adapters", "vggt,trellis-2", "--scenes", scene_path, "--views", "1", "--truth", "exact"]
    call(*run, "--store", tmp_path / "store")
    printed = " ".join("".join(capsys.readouterr()).split())
    assert "Not installed here: vggt; `reconbench adapters install NAME`" in printed
    assert "Cannot run on this platform, as their cards say: trellis-2." in printed


def test_a_report_has_its_files_and_every_trial(store: Path, tmp_path: Path) -> None:
    assert call("report", "--store", store, "--out", tmp_path / "report", "--truth", "exact") == 0
    board = pd.read_csv(tmp_path / "report" / "leaderboard.csv")
    assert set(board["adapter"]) == {"oracle", "noisy-oracle", "faulty"}
    assert board["rank"].isna().all(), "references are never ranked"
    scores = pd.read_csv(tmp_path / "report" / "scores.csv")
    assert set(scores["adapter"]) == {"oracle", "noisy-oracle", "faulty"}
    assert (scores["value"].notna() == (scores["status"] == "ok")).all()
    page = (tmp_path / "report" / "leaderboard.html").read_text()
    assert not loaded_from_the_network(page)


def loaded_from_the_network(page: str) -> list[str]:
    """What a browser would fetch to show `page`, beside files next to it; links are followed by hand alone."""
    fetched = re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""", page)

    class Finder(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            names = {"src", "srcset", "poster", "data"} | ({"href"} if tag in ("link", "image", "use") else set())
            fetched.extend(
                value for name, value in attrs if name in names and re.match(r"\s*(https?:)?//", value or "") and value
            )

    Finder().feed(page)
    return fetched


@pytest.mark.parametrize(
    "part",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<img srcset="//cdn.example/x.png 2x">',
        '<link rel="stylesheet" href="http://fonts.example/a.css">',
        "<style>@import 'https://fonts.example/a.css'; </style>",
        "<style>body { background: url(https://cdn.example/x.png) }</style>",
    ],
)
def test_what_a_page_would_load_from_the_network_is_seen(part: str) -> None:
    assert loaded_from_the_network(f"<html>{part}<a href='https://example.org'>a link</a></html>")
    assert not loaded_from_the_network("<a href='https://example.org'>a link</a><img src='here.png'>")


def test_scoring_again_gives_the_same_scores_without_any_model(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p.name: p.read_bytes() for p in (store / "scores").glob("[!.]*.json")}
    assert call("score", "--store", store, "--again") == 0
    assert {p.name: p.read_bytes() for p in (store / "scores").glob("[!.]*.json")} == before
    assert "accuracy" in capsys.readouterr().out
    assert call("score", "--store", store, "--protocol", "object-no-icp-v1") == 0
    assert len(list((store / "scores").glob("[!.]*.json"))) == 2 * len(before)


def test_a_cloud_made_elsewhere_is_scored_and_marked_external(scene: Scene, scene_path: Path, tmp_path: Path) -> None:
    truth = scene.truth("exact")
    trimesh.PointCloud(truth.points[:20_000]).export(tmp_path / "mine.ply")
    store = tmp_path / "store"
    command = ["score", "--prediction", tmp_path / "mine.ply", "--scene", scene_path, "--store", store]
    assert call(*command, "--posed") == 0
    (record,) = Store(store).trials()
    (score,) = Store(store).scores()
    assert record.external and record.adapter == "mine"
    accuracy = next(value for value in score.values if value.metric == "accuracy")
    assert accuracy.value is not None and accuracy.value < 1e-3
    assert call(*command, "--posed") == 0
    assert len(Store(store).trials()) == 1
    cameras = [
        {"view": view, "width": 96, "height": 96, "fx": 110.0, "fy": 110.0, "cx": 48.0, "cy": 48.0}
        | {"camera_from_world": truth.cameras.camera_from_world[i].tolist()}
        for i, view in enumerate(truth.view_names)
    ]
    (tmp_path / "cameras.json").write_text(json.dumps(list(reversed(cameras))))
    assert call(*command, "--cameras", tmp_path / "cameras.json") == 0
    aligned = next(s for s in Store(store).scores() if s.trial != record.key)
    assert aligned.stages[0].name == "cameras"
    np.testing.assert_allclose(aligned.stages[0].truth_from_pred, np.eye(4), atol=1e-6)


def test_a_cloud_that_cannot_be_read_is_refused(
    scene_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.ply").write_text("not a ply")
    for file in ("bad.ply", "absent.ply"):
        store = tmp_path / "store"
        assert call("score", "--prediction", tmp_path / file, "--scene", scene_path, "--store", store) == 2
        assert file in capsys.readouterr().err.replace("\n", "")
        assert not store.exists()


def test_predict_writes_what_other_tools_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "glue"
    folder.mkdir()
    (folder / "adapter.toml").write_text('name = "glue"\ntitle = "Glue"\nlicence_code = "MIT"\nscope = "scene"\n')
    (folder / "adapter.py").write_text(
        "import numpy as np\n"
        "from adapters.contract import Cameras, Reconstruction, Reconstructor\n"
        "class Adapter(Reconstructor):\n"
        "    def infer(self, inputs):\n"
        "        n = len(inputs)\n"
        "        poses = np.repeat(np.eye(4)[None], n, axis=0)\n"
        "        poses[:, :3, 3] = np.arange(3 * n).reshape(n, 3)\n"
        "        K = np.repeat(np.array([[[70.0, 0, 30], [0, 71, 20], [0, 0, 1]]]), n, axis=0)\n"
        "        return Reconstruction(np.eye(3, dtype=np.float32), 'object', 'arbitrary',\n"
        "            colors=np.eye(3, dtype=np.uint8) * 200, cameras=Cameras(K, poses),\n"
        "            view_index=np.array([0, 2, 2], np.int32), pixel=np.arange(6, dtype=np.float32).reshape(3, 2),\n"
        "            registered=np.arange(n) != 1)\n"
    )
    out = tmp_path / "out"
    assert call("predict", "--adapter", folder, "--images", photos(tmp_path / "p"), "--out", out) == 0
    cloud = trimesh.load(out / "prediction.ply")
    np.testing.assert_allclose(np.asarray(cloud.vertices), np.eye(3))
    assert (out / "prediction.glb").stat().st_size > 100
    import pycolmap

    model = pycolmap.Reconstruction(str(out / "colmap"))
    assert model.num_reg_images() == 2 and model.num_points3D() == 3
    observed = {
        (model.images[e.image_id].name, tuple(model.images[e.image_id].points2D[e.point2D_idx].xy.tolist()))
        for point in model.points3D.values()
        for e in point.track.elements
    }
    assert observed == {("0.jpg", (0, 1)), ("2.jpg", (2, 3)), ("2.jpg", (4, 5))}
    assert "2 of 3 photos placed; no place found for 1.jpg" in " ".join(capsys.readouterr().err.split())
    poses = {image.name: image.cam_from_world().matrix() for image in model.images.values()}
    np.testing.assert_allclose(poses["2.jpg"][:, 3], [6, 7, 8])
    (camera, *_) = model.cameras.values()
    np.testing.assert_allclose(camera.params, [70, 71, 30, 20])
    assert [c["view"] for c in json.loads((out / "cameras.json").read_text())] == ["0", "2"]
    failed = ["predict", "--adapter", FAULTY, "--option", "mode=raise", "--images", tmp_path / "p", "--out", out]
    assert call(*failed) == 1


def test_check_passes_a_good_adapter_and_fails_a_bad_one(
    scene_path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call("adapters", "check", "noisy-oracle", "--scene", scene_path) == 0
    assert "fail" not in capsys.readouterr().out
    text = (Path(FAULTY) / "adapter.py").read_text().replace('mode: str = "ok"', 'mode: str = "nan"')
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "adapter.py").write_text(text)
    (bad / "adapter.toml").write_text((Path(FAULTY) / "adapter.toml").read_text())
    assert call("adapters", "check", bad, "--scene", scene_path) == 1
    assert "not finite" in capsys.readouterr().out


def test_check_sees_a_pose_in_the_wrong_direction(
    scene: Scene, scene_path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "posy"
    folder.mkdir()
    (folder / "adapter.toml").write_text(
        'name = "posy"\ntitle = "Posy"\nlicence_code = "MIT"\nscope = "scene"\nreference = true\n'
        'accepts = ["cameras"]\nrequires = ["cameras"]\n'
    )
    body = (
        "import numpy as np\nfrom adapters.contract import Cameras, Reconstruction, Reconstructor\n"
        "class Adapter(Reconstructor):\n"
        "    def infer(self, inputs):\n"
        "        pixel = np.random.default_rng(0).uniform(20, 70, (50, 2))\n"
        "        points = inputs.cameras.unproject(1, pixel, np.full(50, 3.0))\n"
        "        cameras = Cameras(inputs.cameras.intrinsics, CHANGE)\n"
        "        return Reconstruction(points.astype(np.float32), 'world', 'metric', cameras=cameras,\n"
        "            registered=np.ones(len(inputs), bool), view_index=np.ones(50, np.int32),\n"
        "            pixel=pixel.astype(np.float32))\n"
    )
    for change, code in (
        ("inputs.cameras.camera_from_world", 0),
        ("np.linalg.inv(inputs.cameras.camera_from_world)", 1),
    ):
        (folder / "adapter.py").write_text(body.replace("CHANGE", change))
        assert call("adapters", "check", folder, "--scene", scene_path) == code
        assert "points project onto their pixels" in capsys.readouterr().out


def test_lists_and_cards_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("adapters", "list") == 0
    printed = capsys.readouterr().out
    for name in ("colmap", "visual-hull", "oracle", "noisy-oracle", "images [masks]"):
        assert name in printed
    assert "\\" not in printed
    assert [_in_short(text) for text in ("MIT", "MIT; parts under CC BY-NC 4.0", "MIT (not read here)")] == [
        "MIT",
        "MIT ... (not commercial)",
        "MIT ...",
    ]
    assert call("adapters", "show", "oracle") == 0
    assert 'name = "oracle"' in capsys.readouterr().out
    assert call("data", "list") == 0


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom bench.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'scipy', 'numba', 'pandas', 'pycolmap', 'plotly', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_folders_of_the_user_s_own_are_never_imported(tmp_path: Path) -> None:
    for room in ("adapters", "bench", "data", "metrics", "reports"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise RuntimeError('the folder of the user was imported')")
    command = Path(sysconfig.get_path("scripts")) / "reconbench"
    done = subprocess.run([command, "data", "list"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "elephant" in done.stdout
    unsafe = [sys.executable, "-c", "from bench.cli import main; main(['--help'])"]
    assert subprocess.run(unsafe, cwd=tmp_path, capture_output=True, check=False).returncode == 1, "this could not fail"


def test_a_reconstruction_is_what_was_stored(store: Path) -> None:
    kept = Store(store)
    for record in kept.trials():
        if record.prediction is not None:
            assert isinstance(kept.prediction(record.prediction), Reconstruction)

"""Finding scenes: the embedded ones by name, anyone's by path, or a bare folder of photos."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from adapters.contract import InputError
from data.images import check_image, list_images
from data.scene import Scene, SceneFile, ViewFile

EMBEDDED = Path(__file__).resolve().parents[2] / "data" / "embedded"
OBJECTS = "objects"  # the folder of the embedded single objects, apart from the scenes


def embedded_scenes(group: str = "") -> dict[str, Path]:
    """Every scene that ships with Reconbench, by folder name; those of a `group` (objects) as GROUP/NAME."""
    paths = sorted((EMBEDDED / group).glob("*/scene.json"))
    return {path.parent.relative_to(EMBEDDED).as_posix(): path.parent for path in paths}


def get_scene(name: str) -> Scene:
    """The embedded scene called `name`, or the Scene directory `name`; InputError with near names otherwise."""
    group = name.rpartition("/")[0]
    embedded = embedded_scenes() | (embedded_scenes(group) if group == OBJECTS else {})
    if name in embedded:
        return Scene.open(embedded[name])
    if Path(name).is_dir():
        return Scene.open(Path(name))
    near = difflib.get_close_matches(name, embedded, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(embedded)}"
    raise InputError(f"scene {name!r} is neither an embedded scene nor a folder; {hint}")


def get_scenes(names: Sequence[str]) -> list[Scene]:
    """As `get_scene`, for many; "*" stands for every embedded scene, "objects/*" for every embedded object."""
    wanted: dict[str, None] = {}
    for name in names:
        group = {"*": "", f"{OBJECTS}/*": OBJECTS}.get(name)
        wanted.update({name: None} if group is None else dict.fromkeys(embedded_scenes(group)))
    if not wanted:
        raise InputError("scenes: none named, an embedded scene or a Scene directory wanted")
    return [get_scene(name) for name in wanted]


def scene_of_images(folder: Path) -> Scene:
    """A Scene without truth over a folder of photos; every photo is looked at, so that a broken one is named now."""
    paths = list_images(folder)
    stems = [path.stem for path in paths]
    if doubled := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InputError(f"{folder}: more than one image is called {doubled[0]}, distinct names wanted")
    masks = folder / "masks"
    for path in paths:
        check_image(path)
        if masks.is_dir() and not (masks / f"{path.stem}.png").is_file():
            raise InputError(f"{masks}: no mask {path.stem}.png seen for {path.name}, one an image wanted")
    views = [ViewFile(path.stem, path.name, f"masks/{path.stem}.png" if masks.is_dir() else None) for path in paths]
    return Scene(
        folder,
        SceneFile(
            name=folder.resolve().name, title=folder.resolve().name, licence="yours", source=str(folder), views=views
        ),
    )

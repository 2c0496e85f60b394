"""What became of every file of a folder of photos, once structure from motion has run."""

from __future__ import annotations

from adapters.shared.sfm import SparseModel
from data.groundtruth.ingest import Photos
from data.groundtruth.quality import Photo

FEW_MATCHES = 30  # verified ones with the best partner, below which a photo hardly finds a place


def accounts_of(photos: Photos, model: SparseModel | None) -> list[Photo]:
    """What became of every file that was given, by name."""
    out = [Photo(name, False, why) for name, why in photos.left.items()]
    for index, view in enumerate(photos.scene.view_names if photos.files else ()):
        file, placed = photos.files[view], model is not None and bool(model.registered[index])
        odd = photos.remarks.get(file, "")
        if placed:
            out.append(Photo(file, True, odd))
            continue
        why = "no model was found"
        if model is not None and len(model.matched):
            matches, group = int(model.matched[index]), int(model.model_of[index])
            why = f"matched, up to {matches} points, but it found no place"
            if matches < FEW_MATCHES:
                why = f"too few matches: at most {matches} with any other photo"
            if group > 0:
                why = f"in another model, of {int((model.model_of == group).sum())} photos"
        out.append(Photo(file, False, "; ".join(filter(None, (why, odd)))))
    return sorted(out, key=lambda photo: photo.file)


def groups_of(photos: Photos, model: SparseModel | None) -> list[list[str]]:
    """Which photos belong together, where they fall into several models, the largest first."""
    if model is None or not photos.files or model.model_of.max(initial=0) < 1:
        return []
    files = [photos.files[view] for view in photos.scene.view_names]
    numbers = range(int(model.model_of.max()) + 1)
    return [[file for file, group in zip(files, model.model_of, strict=True) if group == number] for number in numbers]

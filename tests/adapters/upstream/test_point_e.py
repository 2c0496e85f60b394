"""Point-E's adapter around upstream's own sampler and diffusions, whose networks know the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from adapters.contract import Unavailable
from adapters.systems.point_e import adapter as module
from adapters.systems.point_e.adapter import CLIP_FILE, POINTS, UPSAMPLE, Adapter
from bench.systems import weights
from bench.systems.cards import Adapter as Registered
from bench.systems.cards import get_adapter
from tests.adapters.objects import CLOUD, COLOURS, check_cloud, narrowed, small
from tests.adapters.objects import object_views as views

torch = pytest.importorskip("torch")
sampler = pytest.importorskip("point_e.diffusion.sampler", reason="Point-E's code is not importable")
pytest.importorskip("clip", reason="CLIP's code is not importable")
from point_e.diffusion.configs import DIFFUSION_CONFIGS, diffusion_from_config  # noqa: E402

SIZE = {"width": 64, "layers": 1, "heads": 2}
NARROW = {
    "CLIP": [768, 224, 1, 1024, 14, 8, 64, 64, 1, 1],  # the width of vision is one that upstream relies on
    "point_e.models.configs.MODEL_CONFIGS": {"base40M": SIZE, "upsample": SIZE},
}


class Oracle:
    """In the place of one diffusion's network: the noise that is left of the known points under upstream's schedule."""

    def __init__(self, name: str, points: slice) -> None:
        self.bar = torch.tensor(diffusion_from_config(DIFFUSION_CONFIGS[name]).alphas_cumprod)
        colours = torch.from_numpy(COLOURS[points].astype(np.float64))
        self.x0 = torch.cat([2 * torch.from_numpy(CLOUD[points].astype(np.float64)), colours / 127.5 - 1], 1).T[None]
        self.embeddings: list[Any] = []

    def __call__(self, x: Any, t: Any, embeddings: Any, low_res: Any = None) -> Any:
        self.embeddings.append(embeddings)
        bar = self.bar[t.long()].view(-1, 1, 1)
        noise = ((x - bar.sqrt() * self.x0) / (1 - bar).sqrt()).to(x.dtype)
        return torch.cat([noise, torch.zeros_like(noise)], 1)


class Eye(torch.nn.Module):
    """In CLIP's place: each view's grid holds the means of its corners, apart by channel and view."""

    def embed_images_grid(self, images: Any) -> Any:
        assert all(isinstance(image, np.ndarray) and image.dtype == np.uint8 for image in images)
        grids = [[[image[:h, :w].mean() / 255 for h in (20, 30) for w in (20, 30)]] * 3 for image in images]
        view, channel = torch.arange(len(images))[:, None, None] * 0.3, torch.arange(3)[:, None] * 0.1
        return torch.tensor(grids, dtype=torch.float32) + view + channel


def Stub(steps: int = 64) -> Any:  # noqa: N802 - made as the other systems' stubs are
    """Upstream's diffusions around networks that know the cloud."""
    network = torch.nn.Module()
    network.clip = Eye()
    network.stages = [Oracle("base40M", slice(POINTS[0])), Oracle("upsample", slice(POINTS[0], None))]
    network.diffusions = [diffusion_from_config(DIFFUSION_CONFIGS[name]) for name in ("base40M", "upsample")]
    return network


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("fusion", ["tokens", "mean"])
def test_the_known_cloud_comes_back_through_upstream_s_sampler(count: int, fusion: Any) -> None:
    adapter = Adapter(fusion=fusion)
    adapter.network = Stub()
    result = adapter.predict(views(count))
    check_cloud(result)
    for stage in adapter.network.stages:  # a guided diffusion sees the views, and nothing
        shape = (2, 3, 4 * count if fusion == "tokens" else 4)
        assert {tuple(embedded.shape) for embedded in stage.embeddings} == {shape}
        assert all((embedded[1] == 0).all() for embedded in stage.embeddings)


def test_views_stand_in_a_row_or_are_averaged() -> None:
    embedded = {}
    for fusion in ("tokens", "mean"):
        adapter = Adapter(fusion=fusion, steps=2)  # type: ignore[arg-type]
        adapter.network = Stub()
        adapter.infer(adapter.prepare(views(3)))
        embedded[fusion] = adapter.network.stages[0].embeddings[0][0]
    grids = Eye().embed_images_grid(list(Adapter().prepare(views(3)).images))
    assert torch.equal(embedded["tokens"], torch.cat([grids[0], grids[1], grids[2]], 1))
    assert torch.allclose(embedded["mean"], (grids[0] + grids[1] + grids[2]) / 3)


@pytest.fixture(scope="module")
def loaded() -> Adapter:
    return small(module, NARROW, 5, steps=2)


def test_one_view_is_what_upstream_s_own_way_gives(loaded: Adapter) -> None:
    shown = loaded.prepare(views())
    ours = loaded.infer(shown)
    upstream = sampler.PointCloudSampler(
        device=torch.device("cpu"),
        models=[loaded.network.base, loaded.network.upsample],
        diffusions=loaded.network.diffusions,
        num_points=[1024, 4096 - 1024],
        aux_channels=["R", "G", "B"],
        guidance_scale=[3.0, 3.0],
        karras_steps=[2, 2],
    )
    torch.manual_seed(5)
    with torch.no_grad():
        for samples in upstream.sample_batch_progressive(  # noqa: B007 - the last is the answer
            batch_size=1, model_kwargs={"images": [Image.fromarray(shown.images[0])]}
        ):
            pass
    assert np.array_equal(ours, samples[0].numpy())
    cloud = upstream.output_to_point_clouds(samples)[0]
    result = loaded.finish(ours, views())
    assert np.array_equal(result.points, cloud.coords) and np.ptp(result.points) > 0
    rgb = np.stack([cloud.channels[name] for name in "RGB"], axis=1)
    assert result.colors is not None and np.abs(result.colors - rgb * 255).max() < 1e-3


def test_a_seed_is_a_sample_and_comes_back_to_the_last_bit(loaded: Adapter) -> None:
    shown = loaded.prepare(views())
    first = loaded.infer(shown)
    assert np.array_equal(first, loaded.infer(shown))
    loaded.seed, kept = 6, loaded.seed
    assert np.abs(loaded.infer(shown) - first).max() > 1e-3
    loaded.seed = kept


def save_as_upstream(adapter: Any, folder: Path) -> None:
    """Plain state dicts, as upstream's download.py loads; CLIP as a TorchScript archive, as its authors publish it."""
    network = adapter.network
    (folder / "clip").mkdir(parents=True)
    torch.save(network.base.state_dict(), folder / "base_40m.pt")
    torch.save(network.upsample.state_dict(), folder / UPSAMPLE)
    model = network.clip.clip_model
    shown = torch.zeros(1, 3, 224, 224), torch.zeros(1, 8, dtype=torch.long)
    torch.jit.trace(model, shown, check_trace=False).save(str(folder / CLIP_FILE))


def adapter_of(folder: Path) -> Registered:
    """The registered adapter, whose card's sources are below `folder`."""
    adapter = get_adapter("point-e")
    given, replace = adapter.card.weights, msgspec.structs.replace
    assert given is not None
    beside = {"clip": replace(given.beside["clip"], url=f"file://{folder}/{CLIP_FILE}", sha256={"ViT-L-14.pt": ""})}
    own = replace(given, url=f"file://{folder}/", beside=beside)
    adapter.__dict__["card"] = replace(adapter.card, weights=own)
    return adapter


def test_checkpoints_that_upstream_s_code_wrote_are_fetched_from_both_sources_and_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECONBENCH_CACHE", str(tmp_path / "cache"))
    drawn = small(module, NARROW, 1)
    network = drawn.network
    with narrowed(module, NARROW):
        save_as_upstream(drawn, tmp_path / "files")
        adapter = adapter_of(tmp_path / "files")
        weights.accept(adapter)
        given = weights.fetch(adapter)
        assert weights.resolve(adapter, "pretrained") == given
        fresh = Adapter()
        fresh.load("cpu", given.load, 2)
    own = fresh.network.state_dict()
    assert own.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(own[name], tensor), name
    assert not fresh.network.training


def test_a_file_of_another_network_and_an_absent_one_are_one_sentence(tmp_path: Path) -> None:
    drawn = small(module, NARROW, 0)
    with narrowed(module, NARROW):
        save_as_upstream(drawn, tmp_path)
        wrong = {"more": torch.zeros(1), **drawn.network.base.state_dict()}
        del wrong["ln_pre.weight"], wrong["ln_post.bias"]
        torch.save(wrong, tmp_path / "base_40m.pt")
        sentence = (
            r"base_40m.pt: not a checkpoint of this network: 2 parameters missing \(ln_pre.weight, ln_post.bias\)"
        )
        with pytest.raises(Unavailable, match=sentence + r"; 1 unknown \(more\)"):
            Adapter().load("cpu", str(tmp_path), 0)
        with pytest.raises(Unavailable, match=r"holds no base_300m.pt"):
            Adapter(model="base300M").load("cpu", str(tmp_path), 0)

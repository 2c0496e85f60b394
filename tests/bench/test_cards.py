"""Cards are strict, and adapters are found without importing them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adapters.contract import InputError
from bench.systems.cards import ADAPTERS, find_adapters, get_adapter, read_card
from bench.systems.datasets import contamination, is_known
from bench.systems.process import stage

FAULTY = Path(__file__).parent.parent / "faulty"
GOOD = 'name = "x"\ntitle = "X"\nlicence_code = "MIT"\nscope = "scene"\n'


def test_every_built_in_card_is_valid_and_named_as_its_folder() -> None:
    for name, adapter in find_adapters().items():
        assert adapter.card.name == name
        assert len(adapter.hash) == 16


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean noisy-oracle"):
        get_adapter("noisy-oracel")


BROKEN = [
    (GOOD + "colour = 1\n", "unknown field `colour`"),
    (GOOD.replace('"scene"', '"galaxy"'), r"Invalid enum value 'galaxy' - at `\$.scope`"),
    (GOOD.replace('title = "X"\n', ""), "missing required field `title`"),
    (GOOD + 'requires = ["masks"]\n', "requires masks, which accepts does not list"),
    (GOOD + 'accepts = ["truth"]\n', "reference = true is wanted"),
    (GOOD + "min_views = 3\nmax_views = 2\n", "1 <= min <= max wanted"),
    (GOOD.replace('"x"', '"X y"'), "lower-case words"),
    ("name = ", "Invalid"),
    (GOOD + '[environment]\nrequirements = ["a b"]\n', "requirement 'a b' seen, one as PEP 508 writes it wanted"),
    (GOOD + '[environment]\nrequirements = ["a @ git+https://x/a@main"]\n', "COMMIT with 40 hex digits wanted"),
    (GOOD + '[environment]\npython = "three"\n', "python 'three' seen, versions such as"),
    (GOOD + '[[environment.sources]]\nurl = "u"\ncommit = "main"\n', "at commit 'main' seen, 40 hex digits wanted"),
    (GOOD + 2 * f'[[environment.sources]]\nurl = "a/b.git"\ncommit = "{40 * "0"}"\n', "two sources of one name"),
    (GOOD + 'unavailable = "No."\n[weights]\nhub = "a/b"\n', "unavailable, so neither an environment nor weights"),
    (GOOD + "[weights]\n", "weights with a hub id or a url wanted"),
    (GOOD + '[weights]\nurl = "a.pt"\n', "weights url 'a.pt' seen"),
    (GOOD + '[weights]\nhub = "a/b"\nsha256 = { "a.pt" = "12" }\n', "sha256 '12' of a.pt seen, 64 hex digits"),
    (GOOD + '[weights]\nhub = "a/b"\nsha256 = { "../a.pt" = "" }\n', "weights file '../a.pt' seen"),
    (GOOD + '[weights]\nhub = "a/b"\n[weights.beside.clip]\n', "weights.beside.clip with a hub id or a url wanted"),
    (
        GOOD + '[weights]\nhub = "a/b"\n[weights.beside.".."]\nhub = "a/c"\n',
        r"weights.beside... seen, a lower-case word",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), BROKEN)
def test_a_malformed_card_is_named_with_its_field(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "adapter.toml").write_text(text)
    with pytest.raises(InputError, match=sentence) as caught:
        read_card(tmp_path / "adapter.toml")
    assert str(tmp_path / "adapter.toml") in str(caught.value)


def test_the_card_of_the_page_on_adapters_is_a_card(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
    (tmp_path / "adapter.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    card = read_card(tmp_path / "adapter.toml")
    assert card.environment.own and card.weights is not None and list(card.weights.files) == ["model.safetensors"]


def test_a_folder_is_an_adapter() -> None:
    assert get_adapter(str(FAULTY)).name == "faulty"
    with pytest.raises(InputError, match=r"no adapter.toml seen"):
        get_adapter(str(FAULTY / "nowhere"))


def test_plugins_are_found_from_metadata_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "plugged_system" / "glue"
    folder.mkdir(parents=True)
    (tmp_path / "plugged_system" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "adapter.toml").write_text(GOOD.replace('"x"', '"plugged"'))
    (folder / "adapter.py").write_text("raise RuntimeError('imported')\n")
    info = tmp_path / "plugged-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[reconbench.adapters]\nplugged = plugged_system.glue\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = find_adapters()["plugged"]
    assert (result.origin, result.folder, result.card.title) == ("plugin plugged 1.2", folder, "X")
    assert "plugged_system" not in sys.modules


def test_the_hash_covers_the_folder_and_the_shared_code_it_imports(tmp_path: Path) -> None:
    def hash_of(body: str) -> str:
        (tmp_path / "adapter.toml").write_text(GOOD)
        (tmp_path / "adapter.py").write_text(body)
        return get_adapter(str(tmp_path) + "/").hash

    alone, other = hash_of("x = 1\n"), hash_of("x = 2\n")
    assert alone != other
    assert alone == hash_of("x = 1\n")
    assert hash_of("from adapters.shared import stereo\n") != hash_of("from adapters.shared import stereos\n")


@pytest.mark.parametrize("folder", ["stereo", "shared", "systems", "resize", "vggt", "contract"])
def test_a_folder_from_elsewhere_takes_no_module_s_place(folder: str, tmp_path: Path) -> None:
    theirs = tmp_path / folder
    theirs.mkdir()
    (theirs / "adapter.toml").write_text(GOOD)
    text = "from adapters.shared import resize, stereo\ntheirs = True\n"
    (theirs / "adapter.py").write_text(text)
    adapter = get_adapter(f"{theirs}/")
    staged = stage(adapter)
    module = staged / (adapter.module.replace(".", "/") + ".py")
    assert module.read_text() == text
    ours = [name for name in adapter.files if not name.startswith("third_party")]
    assert {"contract.py", "shared/resize.py", "shared/stereo/__init__.py", "systems/__init__.py"} <= {*ours}
    for name in ours:
        assert (staged / "adapters" / name).read_bytes() == (ADAPTERS / name).read_bytes(), name


def test_an_adapter_that_does_not_parse_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter.toml").write_text(GOOD)
    (tmp_path / "adapter.py").write_text("def (\n")
    with pytest.raises(InputError, match=r"adapter.py: not valid Python"):
        _ = get_adapter(str(tmp_path) + "/").hash


def test_every_training_set_of_a_built_in_card_is_of_the_one_vocabulary() -> None:
    for adapter in find_adapters().values():
        if adapter.origin == "built-in":
            unknown = [name for name in adapter.card.training if not is_known(name)]
            assert not unknown, f"{adapter.name}: training: {', '.join(unknown)}"


@pytest.mark.parametrize(
    ("training", "source", "both"),
    [
        (["CO3Dv2", "ScanNet++"], "frames of CO3D, sequence 110_13051", ("CO3D",)),
        (["ScanNet"], "ScanNet++ (Yeshwanth et al.), scene 09c1414f1b", ()),
        (["ScanNet++"], "ScanNet++, scene 09c1414f1b", ("ScanNet++",)),
        (["BlendedMVG", "Virtual KITTI"], "BlendedMVS; and KITTI", ("BlendedMVS",)),
        (["not published", "Replica"], "photographed by us, a replica of a vase", ()),
        (["Habitat"], "modelled and path-traced by data/synthetic", ()),
    ],
)
def test_contamination_is_where_training_and_source_meet(
    training: list[str], source: str, both: tuple[str, ...]
) -> None:
    assert contamination(training, source) == both


def test_a_system_that_cannot_run_here_is_a_card_with_one_sentence_and_no_code() -> None:
    for name, adapter in find_adapters().items():
        sentence, code = adapter.card.unavailable, (adapter.folder / "adapter.py").is_file()
        assert bool(sentence) != code, f"{name}: code, or a sentence that says why there is none"
        if sentence:
            assert sentence.endswith(".") and ". " not in sentence, name
            assert adapter.card.upstream is not None and len(adapter.card.upstream.commit) == 40, name
            assert adapter.card.licence_code and adapter.card.licence_weights, name

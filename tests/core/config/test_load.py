# SPDX-License-Identifier: Apache-2.0
"""YAML with bases and overrides becomes frozen settings, or a message that says where, what and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from beitv2_core.config import explain_config, load_config, parse_config
from beitv2_core.config.load import MissingValueError, read_tree, source_of
from beitv2_core.errors import ConfigError

MINIMAL = """
kind: pretrain
output: out
data: {dataset: digit_scenes, size: 8, image_size: 32}
model: {width: 96, depth: 3, num_heads: 3, patch_size: 8, early_layers: 2}
tokenizer: {weights: run}
mask: {num_masked: 6, min_block: 2}
optim: {lr: 1e-3, steps: 10}
train: {batch_size: 4}
"""


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def minimal(write):
    return write("minimal.yml", MINIMAL)


def test_the_child_wins_dictionaries_merge_and_lists_are_replaced(write):
    write("bases/one.yml", "a: {x: 1, y: 2}\nlist: [1, 2, 3]\nkept: one")
    write("bases/two.yml", "a: {y: 3}\nkept: two")
    child = write("child.yml", "_base_: [bases/one.yml, bases/two.yml]\na: {z: 4}\nlist: [9]")
    tree, _ = read_tree(child)
    assert tree == {"a": {"x": 1, "y": 3, "z": 4}, "list": [9], "kept": "two"}


def test_inherited_false_drops_what_the_bases_say(write):
    write("base.yml", "a: {x: 1}\nb: 2")
    tree, sources = read_tree(write("child.yml", "_base_: base.yml\na: {_inherited_: false, y: 5}"))
    assert tree == {"a": {"y": 5}, "b": 2}
    assert "a.x" not in sources


def test_every_value_knows_the_file_it_came_from(write):
    base = write("base.yml", "a: {x: 1, y: 2}")
    child = write("child.yml", "_base_: base.yml\na: {y: 3}")
    _, sources = read_tree(child)
    assert sources == {"a.x": str(base), "a.y": str(child)}


def test_bases_that_lead_back_are_named(write):
    write("a.yml", "_base_: b.yml")
    with pytest.raises(ConfigError, match=r"a\.yml: _base_ leads back.*a\.yml -> b\.yml"):
        read_tree(write("b.yml", "_base_: a.yml").parent / "a.yml")


def test_a_missing_base_names_both_files(write):
    with pytest.raises(ConfigError, match=r"(?s)gone\.yml: cannot be read \(named by _base_ in .*child\.yml"):
        read_tree(write("child.yml", "_base_: gone.yml"))


def test_a_key_given_twice_is_refused(write):
    with pytest.raises(ConfigError, match="'a' is given twice"):
        read_tree(write("c.yml", "a: 1\na: 2"))


def test_overrides_are_yaml_and_beat_the_file(minimal):
    overrides = ["optim.betas=[0.9, 0.98]", "model.drop_path=1e-1", "train.keep_every=null"]
    config, sources, missing = explain_config(minimal, overrides)
    assert config == load_config(minimal, overrides) and missing == []
    assert config.optim.betas == (0.9, 0.98)
    assert config.model.drop_path == 0.1
    assert source_of("optim.betas", sources) == "--set"
    assert source_of("optim.lr", sources) == str(minimal)


@pytest.mark.parametrize("text", ["optim.lr", "=3", "a..b=1", "a=[1"])
def test_an_override_that_cannot_be_read_is_shown(minimal, text):
    with pytest.raises(ConfigError, match="--set"):
        load_config(minimal, [text])


def test_exponents_without_a_point_are_numbers_quoted_or_not(minimal):
    assert load_config(minimal, ["optim.eps=1e-6"]).optim.eps == 1e-6
    assert load_config(minimal, ["optim.eps='1e-6'"]).optim.eps == 1e-6
    assert load_config(minimal, ["optim.steps=3e4"]).optim.steps == 30000


def test_an_unknown_key_names_file_key_nearest_and_known_keys(write):
    path = write("bad.yml", MINIMAL.replace("early_layers: 2", "early_layers: 2, drop_pth: 0.1"))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert f"{path}: model.drop_pth: unknown key. Did you mean 'drop_path'? " in message
    assert "Known keys: attn_drop_rate, depth, drop_path" in message


def test_an_unknown_key_in_a_base_names_the_base(write):
    base = write("base.yml", "optim: {learning: 1}")
    path = write("child.yml", "_base_: base.yml\n" + MINIMAL)
    with pytest.raises(ConfigError, match=f"{base}: optim.learning: unknown key"):
        load_config(path)


def test_a_wrong_type_names_what_came_and_what_was_expected(minimal):
    with pytest.raises(ConfigError, match=r"--set: train.batch_size: 'many' came \(str\).*valid integer"):
        load_config(minimal, ["train.batch_size=many"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("mask.num_masked=75", r"mask.num_masked: 75 masked of 16 patches \(4x4\)"),
        ("model.early_layers=4", "early_layers is 4 but the backbone has 3 blocks; expected 1 to 3"),
        ("model.patch_size=0", "patch_size: 0 came"),
        ("data.image_size=30", "an image of 30x30 pixels is not a whole number of 8x8 patches"),
        ("data.image_size=[32, 36]", "32x36 pixels is not a whole number of 8x8 patches"),
        ("model.num_heads=5", "5 heads do not divide the width 96"),
        ("mask.min_block=7", "blocks of 7 patches, but only 6 masked"),
        ("optim.epochs=3", "both epochs and steps are given"),
        ("data.crop_scale=[0.5, 0.2]", "is not a range"),
        ("model.size=giant", "'giant' is not a size; known sizes: tiny"),
        ("kind=pretraining", "kind: there is no 'pretraining'. Did you mean 'pretrain'\\? Known: tokenizer, pretrain"),
    ],
)
def test_impossible_settings_are_named(minimal, override, expected):
    with pytest.raises(ConfigError, match=expected):
        load_config(minimal, [override])


def test_a_folder_without_a_root_is_refused_with_the_option_to_type(minimal):
    with pytest.raises(MissingValueError, match=r"data.root: required.*--set data.root=") as caught:
        load_config(minimal, ["data.dataset=folder"])
    assert caught.value.keys == ["data.root"]


def test_a_missing_section_asks_for_the_values_it_cannot_do_without(minimal):
    with pytest.raises(MissingValueError, match=r"tokenizer.weights: required.*--set tokenizer.weights=") as caught:
        load_config(minimal, ["tokenizer={_inherited_: false}"])
    assert caught.value.keys == ["tokenizer.weights"]
    tree = yaml.safe_load(minimal.read_text(encoding="utf-8"))
    del tree["tokenizer"]
    with pytest.raises(MissingValueError) as caught:
        parse_config(tree)
    assert caught.value.keys == ["tokenizer.weights"]


def test_a_section_without_keys_is_named_with_what_belongs_there(minimal):
    with pytest.raises(ConfigError, match="train: nothing stands below it.*batch_size.*leave the line out") as error:
        load_config(minimal, ["train=null"])
    assert "ictionary" not in str(error.value)


def test_gaps_are_filled_and_named_where_only_texts_are_missing(minimal):
    found, _, missing = explain_config(minimal, ["data.dataset=folder"])
    assert (found.data.root, missing) == ("?", ["data.root"])
    with pytest.raises(ConfigError, match="optim.lr: required"):
        explain_config(minimal, ["optim={_inherited_: false, steps: 1}"])


def test_a_size_name_sets_three_numbers_and_each_can_be_overridden(minimal):
    model = load_config(minimal, ["model={_inherited_: false, size: small, depth: 4, patch_size: 8}"]).model
    assert (model.width, model.depth, model.num_heads) == (384, 4, 6)


def test_settings_cannot_be_changed_afterwards(minimal):
    config = load_config(minimal)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lr=st.floats(1e-9, 10),
    clip=st.none() | st.floats(1e-3, 1e3),
    depth=st.integers(3, 40),
    image=st.tuples(st.integers(1, 9), st.integers(2, 9)),
)
def test_resolved_settings_read_back_unchanged(seed, lr, clip, depth, image):
    tree = yaml.safe_load(MINIMAL)
    tree["seed"], tree["model"]["depth"] = seed, depth
    tree["optim"].update(lr=lr, clip_norm=clip)
    tree["data"]["image_size"] = [8 * side for side in image]
    tree["mask"] = {"num_masked": 1, "min_block": 1}
    config = parse_config(tree)
    again = parse_config(yaml.safe_load(yaml.safe_dump(config.resolved())))
    assert again == config


def test_shards_take_a_pattern_or_a_list_and_a_folder_only_one_path(minimal):
    shards = ["data.dataset=shards"]
    assert load_config(minimal, [*shards, "data.root=t-{00..12}.tar"]).data.root == "t-{00..12}.tar"
    assert load_config(minimal, [*shards, "data.root=[a.tar, b.tar]"]).data.root == ["a.tar", "b.tar"]
    with pytest.raises(MissingValueError, match="data.root: required"):
        load_config(minimal, shards)
    with pytest.raises(ConfigError, match="data.list_file: .*shards does not read"):
        load_config(minimal, [*shards, "data.root=a", "data.list_file=b"])
    with pytest.raises(ConfigError, match="data.root: a list of paths came"):
        load_config(minimal, ["data.dataset=folder", "data.root=[a, b]"])


def test_drawn_images_cannot_be_decoded_smaller(minimal):
    with pytest.raises(ConfigError, match="data.draft: .*digit_scenes does not read"):
        load_config(minimal, ["data.draft=true"])


@pytest.mark.parametrize(("settings", "key"), [
    (["data.dataset=folder", "data.root=a", "data.size=400"], "data.size"),
    (["data.dataset=folder", "data.root=a", "data.scene_size=64"], "data.scene_size"),
    (["data.dataset=folder", "data.root=a", "data.shard_window=2"], "data.shard_window"),
    (["data.dataset=shards", "data.root=a", "data.scene_digits=[1, 3]"], "data.scene_digits"),
    (["data.max_corrupt=0.5"], "data.max_corrupt"),
    (["data.exif_orientation=true"], "data.exif_orientation"),
    (["data.list_file=a.txt"], "data.list_file"),
    (["mask.options={a: 1}"], "mask.options"),
    (["mask.kind=random", "mask.min_block=4"], "mask.min_block"),
    (["mask.kind=random", "mask.min_aspect=0.5"], "mask.min_aspect"),
    (["mask.kind=of_others", "mask.max_block=4"], "mask.max_block"),
])
def test_settings_that_the_kind_does_not_read_are_refused(minimal, settings, key):
    with pytest.raises(ConfigError, match=f"--set: {key}: .*does not read"):
        load_config(minimal, settings)


def test_settings_of_a_base_for_a_kind_that_was_replaced_are_left_out(write):
    base = "data: {dataset: digit_scenes, size: 8, scene_size: 40, image_size: 32}\nmask: {num_masked: 6, min_block: 2}"
    write("base.yml", base)
    rest = MINIMAL.replace("data: {dataset: digit_scenes, size: 8, image_size: 32}\n", "").replace(
        "mask: {num_masked: 6, min_block: 2}\n", "")
    child = write("child.yml", f"_base_: base.yml{rest}data: {{dataset: folder, root: a}}\n")
    found = load_config(child, ["mask.kind=random"])
    assert (found.data.size, found.data.scene_size, found.mask.min_block) == (None, None, 16)
    child = write("child.yml", f"_base_: base.yml{rest}data: {{dataset: folder, root: a, size: 9}}\n")
    with pytest.raises(ConfigError, match="child.yml: data.size: 9 .*does not read"):
        load_config(child)
    write("base.yml", base.replace("digit_scenes", "folder").replace("scene_size: 40", "root: a"))
    with pytest.raises(ConfigError, match="base.yml: data.size"):
        load_config(write("plain.yml", f"_base_: base.yml{rest}"))


def test_the_settings_of_an_old_checkpoint_are_read_without_what_its_data_set_ignored(minimal):
    kept = load_config(minimal, ["data.dataset=folder", "data.root=a"])
    tree = kept.resolved()
    assert parse_config(tree) == kept
    tree["data"].update(size=400, scene_size=7)
    tree["mask"]["options"] = {"a": 1}
    for new in ("exif_orientation", "max_pixels"):
        del tree["data"][new]
    assert parse_config(tree) == kept


@pytest.mark.parametrize("setting", ["data.token_image_size=16", "data.token_interpolation=lanczos"])
def test_a_tokenizers_view_is_refused_where_there_is_no_pretraining(setting):
    configs = Path(__file__).resolve().parents[3] / "configs"
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        load_config(configs / "tokenizer/digit_scenes.yml", [setting])
    assert load_config(configs / "pretrain/digit_scenes.yml", [setting])


def test_a_file_of_settings_that_cannot_be_read_says_what_to_do(tmp_path):
    (tmp_path / "gbk.yml").write_bytes("output: 输出\n".encode("gbk"))
    for name, remedy in (("gbk.yml", "UTF-8"), ("gone.yml", "configs/")):
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / name)
        assert name in str(caught.value) and remedy in str(caught.value)


@pytest.mark.parametrize(("base", "said"), [("/dev/zero", "it is no file"), (".", "it is no file"),
                                            ('"a\\0b"', "null"), ("x" * 5000, "too long"),
                                            ("list.yml", "expected 'key: value'"), ("odd.yml", "not valid YAML")])
def test_a_base_that_is_no_file_of_settings_is_told_with_the_file_that_names_it(write, base, said):
    write("list.yml", "[1]")
    write("odd.yml", "a: !!float abc")
    path = write("config.yml", f"_base_: {base}\n{MINIMAL}")
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(path)
    assert f"named by _base_ in {path}" in str(caught.value)


def test_bases_that_are_named_twice_each_are_not_read_a_billion_times(write):
    for number in range(40):
        write(f"{number}.yml", f"_base_: [{number + 1}.yml, {number + 1}.yml]\n")
    write("40.yml", MINIMAL)
    with pytest.raises(ConfigError, match="1,000th .*Name each base once"):
        load_config(write("config.yml", "_base_: 0.yml\n"))


def test_aliases_that_stand_for_billions_of_values_are_refused(write):
    lines = ["m0: &m0 {k: 1}", *(f"m{i}: &m{i} {{a: *m{i - 1}, b: *m{i - 1}}}" for i in range(1, 40))]
    with pytest.raises(ConfigError, match="config.yml: not valid YAML: .*more than 200,000 values"):
        load_config(write("config.yml", MINIMAL + "\n".join(lines)))

# SPDX-License-Identifier: Apache-2.0
"""DINOv2, DINOv3, SigLIP 2, CLIP and EVA-CLIP: files of others are recognised, and give their references' features.

Recorded from transformers, timm and the authors' code (`reference_vits.py`); the peers are run by `make test-peers`.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from published_vits import expanded, features, images, recorded, weights
from reference_vits import SMALL, file_shapes, grids_of, normalised, patch_of, write

from beitv2_core.errors import ConfigError, WeightsError
from beitv2_core.teachers import FAMILIES, build_teacher
from beitv2_core.teachers.positions import antialiased_matrix
from beitv2_core.teachers.published import check_file, identify_form, settings_of
from beitv2_core.weights.writers import write_torch

RECORD = recorded()
MODELS = {**RECORD["small"], **RECORD["released"]}
LIMIT = 1e-5  # of the largest feature


def error(got: np.ndarray, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def small_state(key: str) -> dict[str, np.ndarray]:
    state = weights(MODELS[key]["tensors"])
    for name, array in state.items():
        if name.endswith("bias_mask"):  # 1 for queries and values, 0 for keys
            array[:] = np.repeat([1, 0, 1], len(array) // 3)
    return state


def built(path, teacher: str, grid=(4, 4), **options):
    return build_teacher(teacher, weights=str(path), image_size=(grid[0] * 8, grid[1] * 8), patch_size=8,
                         **{"num_heads": 2, **options})


def answer(teacher, grid, patch) -> np.ndarray:
    return teacher.features(teacher.normalise(paddle.to_tensor(images(grid, patch)))).numpy()


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Each small model by name, built once from a file of its names."""
    folder, made = tmp_path_factory.mktemp("published"), {}

    def one(key: str):
        if key not in made:
            write_torch(folder / f"{key}.pth", small_state(key))
            made[key] = built(folder / f"{key}.pth", MODELS[key]["teacher"])
        return made[key]

    return one


@pytest.mark.parametrize("name", features())
def test_patch_features_are_those_of_the_reference(teachers, name):
    key, grid = name.split("/")
    rows, columns = (int(size) for size in grid.split("x"))
    got = answer(teachers(key), (rows, columns), MODELS[key]["patch"])
    assert error(got, features()[name]) < LIMIT


@pytest.mark.parametrize("key", [key for key, model in RECORD["published"].items() if model["teacher"] != "clip"])
def test_the_names_and_shapes_of_a_published_file_tell_its_architecture(key):
    model = RECORD["published"][key]
    shapes, expected = expanded(model), model["expected"]
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    family = FAMILIES[model["teacher"]]
    form, state = identify_form(family, arrays, key)
    found = settings_of(family, form, state)
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.depth == model["depth"]
    check_file(form, found, state, key)


@pytest.mark.parametrize("key", ["clip-vit-base-patch16", "clip-vit-large-patch14"])
def test_transformers_clip_has_openais_architecture(key):
    from beitv2_core.assembly.from_architecture import shapes_of
    from beitv2_core.teachers.clip import CLIP, _read
    from beitv2_core.weights.architecture import ShapeReader
    from beitv2_core.weights.keymaps.clip import from_clip

    model = {**RECORD["published"][key], "depth": 2}
    ours = from_clip({name: np.broadcast_to(np.float32(0), shape) for name, shape in expanded(model).items()})
    found = _read(ShapeReader(ours))
    assert {name: found[name] for name in model["expected"]} == model["expected"]
    assert {name: array.shape for name, array in ours.items()} == shapes_of(CLIP, found)


def test_every_teacher_resizes_to_the_tokenizers_grid_and_is_frozen(teachers):
    teacher = teachers("dinov2_registers")
    assert teacher.grid == (4, 4) and teacher.input_size == (56, 56) and teacher.width == 32
    assert list(teacher(paddle.rand([2, 3, 32, 32])).shape) == [2, 16, 32]
    assert all(parameter.stop_gradient for parameter in teacher.parameters())


def test_other_towers_and_prefixes_of_a_file_are_passed_over(teachers, tmp_path):
    state = {f"vision_model.{name}": array for name, array in small_state("siglip").items()}
    state.update({"text_model.embeddings.token_embedding.weight": np.zeros((3, 4), np.float32),
                  "logit_scale": np.zeros(1, np.float32)})
    write_torch(tmp_path / "both.pth", state)
    np.testing.assert_array_equal(answer(built(tmp_path / "both.pth", "siglip2"), (4, 4), 14),
                                  answer(teachers("siglip"), (4, 4), 14))


@pytest.mark.parametrize("change, message", [
    (lambda state: state.pop("encoder.layer.1.norm2.bias"), r"missing: encoder\.layer\.1\.norm2\.bias"),
    (lambda state: state.update({"extra.scale": np.zeros(2, np.float32)}), r"unexpected: extra\.scale"),
    (lambda state: state.update({"layernorm.bias": np.zeros(5, np.float32)}), r"layernorm\.bias is \(5,\), expected"),
    (lambda state: state.update({"embeddings.position_embeddings": np.zeros((1, 12, 32), np.float32)}), "no square"),
    (lambda state: state.update({f"teacher.{name}": array for name, array in list(state.items())}),
     "holds 2 models, under"),
])
def test_a_file_that_does_not_fit_is_named(tmp_path, change, message):
    state = small_state("dinov2")
    change(state)
    write_torch(tmp_path / "m.pth", state)
    with pytest.raises(WeightsError, match=rf"m\.pth: .*{message}"):
        built(tmp_path / "m.pth", "dinov2")


def test_a_file_of_another_family_lists_the_names_that_are_known(tmp_path):
    write_torch(tmp_path / "m.pth", small_state("dinov2"))
    with pytest.raises(WeightsError, match="no model of 'dinov3'.*storage_tokens.*DINOv3 License"):
        built(tmp_path / "m.pth", "dinov3")


def test_a_dinov2_file_is_not_taken_for_dino():
    from beitv2_core.assembly.loaded_weights import identify_weights
    from beitv2_core.errors import CheckpointError

    with pytest.raises(CheckpointError, match="no kind of model was recognised"):
        identify_weights(small_state("dinov2_released"))


def test_heads_that_no_tensor_tells_are_asked_for(tmp_path):
    write_torch(tmp_path / "m.pth", small_state("siglip"))
    with pytest.raises(WeightsError, match="32 channels is not in the weights.*num_heads"):
        built(tmp_path / "m.pth", "siglip2", num_heads=None)
    with pytest.raises(WeightsError, match="does not divide into 3 heads"):
        built(tmp_path / "m.pth", "siglip2", num_heads=3)


def test_a_naflex_file_is_refused_by_the_shape_of_its_patches(tmp_path):
    state = small_state("siglip")
    name = next(name for name in state if name.endswith("patch_embedding.weight"))
    state[name] = state[name].reshape(32, -1)
    write_torch(tmp_path / "m.pth", state)
    with pytest.raises(WeightsError, match="NaFlex"):
        built(tmp_path / "m.pth", "siglip2")


def test_missing_weights_say_where_they_are():
    for name in FAMILIES:
        with pytest.raises(WeightsError, match=f"{name}.*no weights were given.*teacher.weights"):
            build_teacher(name)


def test_satellite_images_have_their_own_normalisation(tmp_path):
    write_torch(tmp_path / "m.pth", small_state("dinov3"))
    assert built(tmp_path / "m.pth", "dinov3", trained_on="satellite").mean == (0.430, 0.411, 0.296)
    with pytest.raises(ConfigError, match="trained_on is 'moon', expected web or satellite"):
        built(tmp_path / "m.pth", "dinov3", trained_on="moon")


@pytest.mark.parametrize("key", ["dinov2_gated", "dinov3", "siglip", "clip", "eva02"])
def test_a_plan_counts_the_network_in_the_file(tmp_path, key):
    from beitv2_core.assembly.costs import planned_run
    from beitv2_core.config import parse_config
    from beitv2_core.planning.cost import LayerCosts

    write_torch(tmp_path / "m.pth", small_state(key))
    network = built(tmp_path / "m.pth", MODELS[key]["teacher"])
    trunk = {"width": 48, "depth": 1, "num_heads": 3}
    run = planned_run(parse_config({
        "kind": "tokenizer", "output": "none", "optim": {"lr": 1.0, "steps": 1}, "train": {"batch_size": 2},
        "data": {"dataset": "digit_scenes", "size": 8, "image_size": 24}, "encoder": {**trunk, "patch_size": 8},
        "decoder": trunk, "teacher": {"name": MODELS[key]["teacher"], "weights": str(tmp_path / "m.pth"),
                                      "options": {"num_heads": 2}}}), images=8, devices=1)
    assert run.parameters[1] == sum(parameter.size for parameter in network.parameters())
    assert run.costs(LayerCosts())[1].forward_flop == products_of(network, patches=9)


def products_of(network, patches: int) -> float:
    """FLOP of all products of one image, from the shapes of the weights."""
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    blocks, width = 2, 32
    leading = sum(shape[-2] if len(shape) == 3 else 1 for name, shape in shapes.items()
                  if name.endswith(("cls_token", "class_embedding", "register_tokens")))
    tokens, flop = patches + leading, 4.0 * blocks * (patches + leading) ** 2 * width
    for name, shape in shapes.items():
        if len(shape) == 4 or name.endswith(("head.weight", "visual.proj")):
            flop += 2.0 * patches * np.prod(shape)
        elif len(shape) == 2 and name.endswith("weight"):
            flop += 2.0 * tokens * np.prod(shape)
    return flop


@pytest.mark.peers
@pytest.mark.usefixtures("importable_torchvision")
@pytest.mark.parametrize("key", SMALL)
def test_the_reference_of_today_gives_the_recorded_features_and_ours(key, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed: `make test-peers`")
    pytest.importorskip("timm", reason="timm is not installed: `make test-peers`")
    teacher, family, settings = SMALL[key]
    patch, shapes = patch_of(settings, family), RECORD["small"][key]["tensors"]
    assert {name: list(shape) for name, shape in file_shapes(family, settings).items()} == shapes
    reference = write(tmp_path, family, settings, small_state(key))
    ours = built(tmp_path / "model.safetensors", teacher)
    for grid in grids_of(teacher):
        expected = reference(normalised(teacher, images(grid, patch)))
        assert error(answer(ours, grid, patch), expected) < LIMIT
        assert error(features()[f"{key}/{grid[0]}x{grid[1]}"], expected) < LIMIT


@pytest.mark.peers
@pytest.mark.parametrize("sizes", [(37, 16), (16, 14), (14, 14), (4, 7), (5, 2)])
def test_the_anti_aliased_matrix_is_torchs(sizes):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make test-peers`")
    rows = torch.eye(sizes[0])[None, :, :, None].expand(1, -1, -1, sizes[0])
    resized = torch.nn.functional.interpolate(rows, size=(sizes[1], sizes[0]), mode="bicubic", antialias=True)
    np.testing.assert_allclose(antialiased_matrix(*sizes), resized[0, :, :, 0].T.numpy(), atol=2e-6)

# SPDX-License-Identifier: Apache-2.0
"""A network as a file teaches what it computes, and a file that is read wrongly is refused with what would fit."""

from __future__ import annotations

import hashlib
import importlib.util

import numpy as np
import paddle
import pytest

from beitv2_core.errors import ConfigError, ShapeError, WeightsError
from beitv2_core.teachers import build_teacher

missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
WIDTH, PATCH = 5, 4
KERNEL = np.random.RandomState(0).randn(WIDTH, 3, PATCH, PATCH).astype(np.float32)
PLAIN = {"image_size": 16, "patch_size": 4, "mean": 0, "std": 1}


@pytest.fixture
def images():
    return paddle.to_tensor(np.random.RandomState(1).rand(5, 3, 16, 16).astype(np.float32))


def expected(images) -> np.ndarray:
    """Features (B, N, WIDTH) of normalised images."""
    return paddle.nn.functional.conv2d(images, paddle.to_tensor(KERNEL), stride=PATCH).flatten(2).numpy().transpose(
        0, 2, 1)


def write_onnx(path, *, batch="batch", size=(16, 16), layout="nchw", leading=0, more=False, inputs=1, external=False):
    """An ONNX file of one convolution whose output is laid out as asked."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rows, columns = (size[0] // PATCH, size[1] // PATCH) if isinstance(size[0], int) else ("rows", "columns")
    nodes = [helper.make_node("Conv", ["images", "kernel"], ["map"], strides=[PATCH, PATCH])]
    weights, shape = [numpy_helper.from_array(KERNEL, "kernel")], [batch, WIDTH, rows, columns]
    if layout != "nchw":
        nodes.append(helper.make_node("Transpose", ["map"], ["last"], perm=[0, 2, 3, 1]))
        shape = [batch, rows, columns, WIDTH]
    if layout == "tokens":
        weights.append(numpy_helper.from_array(np.array([0, -1, WIDTH], np.int64), "flat"))
        nodes.append(helper.make_node("Reshape", ["last", "flat"], ["tokens"]))
        nodes += [helper.make_node("Slice", ["tokens", "start", "stop", "axis"], ["head"]),
                  helper.make_node("Concat", ["head", "tokens"], ["all"], axis=1)] if leading else []
        weights += [numpy_helper.from_array(np.array([value], np.int64), name)
                    for name, value in (("start", 0), ("stop", leading), ("axis", 1))] if leading else []
        shape = [batch, None, WIDTH]
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, shape)]
    if more:
        nodes.append(helper.make_node("GlobalAveragePool", ["map"], ["mean"]))
        outputs.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, [batch, WIDTH, 1, 1]))
    entries = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, *size])
               for name in ("images", "others")[:inputs]]
    graph = helper.make_graph(nodes, "teacher", entries, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(path), save_as_external_data=external, location="kernel.bin", size_threshold=0)
    return str(path)


class Patches(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, WIDTH, PATCH, PATCH, bias_attr=False)
        self.conv.weight.set_value(KERNEL)

    def forward(self, images):
        return self.conv(images)


def write_paddle(path):
    layer = Patches()
    layer.eval()
    paddle.jit.save(layer, str(path), input_spec=[paddle.static.InputSpec([None, 3, 16, 16], "float32", name="images")])
    return str(path)


def close(got, wanted):
    np.testing.assert_allclose(got.numpy() if hasattr(got, "numpy") else got, wanted, rtol=1e-4, atol=1e-5)


@needs_onnx
@pytest.mark.parametrize("written, options", [
    ({}, {}), ({"layout": "nhwc"}, {"layout": "nhwc"}), ({"layout": "tokens"}, {}), ({"batch": 2}, {}),
    ({"batch": 8}, {}), ({"layout": "tokens", "leading": 3}, {"leading": 3}),
    ({"size": ("h", "w")}, {"input_size": 16}),
    ({"more": True}, {"output": "map"}), ({"more": True}, {"output": 0}), ({"external": True}, {})])
def test_an_onnx_file_gives_its_patches_in_every_layout(tmp_path, images, written, options):
    teacher = build_teacher("file", weights=write_onnx(tmp_path / "net.onnx", **written), **PLAIN, **options)
    assert teacher.width == WIDTH and teacher.grid == (4, 4) and teacher.input_size == (16, 16)
    close(teacher(images), expected(images))


@pytest.mark.parametrize("ending", ["", "graph"])
def test_a_paddle_graph_gives_its_patches(tmp_path, images, ending):
    path = write_paddle(tmp_path / "net")
    if ending:
        path = str(next(one for one in tmp_path.iterdir() if one.suffix in (".json", ".pdmodel")))
    with pytest.raises(ConfigError, match="does not say which size.*input_size"):
        build_teacher("file", weights=path, **PLAIN)
    teacher = build_teacher("file", weights=path, input_size=16, **PLAIN)
    close(teacher(images), expected(images))


def test_a_folder_that_was_exported_says_everything_itself(tmp_path, images):
    from beitv2_core.exporting.sources import exportable_features
    from beitv2_core.exporting.writer import export_model
    from beitv2_core.models.backbone import BEiTBackbone

    paddle.seed(0)
    backbone = BEiTBackbone(image_size=16, patch_size=4, width=12, depth=1, num_heads=2, use_abs_pos_emb=True)
    backbone.eval()
    export_model(exportable_features(backbone), tmp_path / "net", form="paddle", batches=(1,))
    sizes = {"weights": str(tmp_path / "net"), "image_size": 16, "patch_size": 4}
    teacher = build_teacher("file", **sizes)
    mean, std = (paddle.to_tensor(value).reshape([1, 3, 1, 1]) for value in (teacher.mean, teacher.std))
    close(teacher(images), backbone.patch_tokens((images - mean) / std).numpy())
    for options, match in (({"mean": 0.5}, "its model.json says"), ({"sha256": "0" * 64}, "model.json holds the hash"),
                           ({"output": "mean"}, r"shape \(batch, 12\), which is no nchw")):
        with pytest.raises(ConfigError, match=match):
            build_teacher("file", **sizes, **options)


@needs_onnx
def test_images_are_resized_scaled_and_normalised_as_asked(tmp_path, images):
    path = write_onnx(tmp_path / "net.onnx")
    mean, std = np.array([110, 120, 130], np.float32), np.array([50, 60, 70], np.float32)
    teacher = build_teacher("file", weights=path, image_size=16, patch_size=4, mean=mean.tolist(), std=std.tolist(),
                            scale=255)
    shape = (1, 3, 1, 1)
    close(teacher(images), expected((images * 255 - paddle.to_tensor(mean.reshape(shape))) /
                                    paddle.to_tensor(std.reshape(shape))))
    small = build_teacher("file", weights=path, image_size=8, patch_size=2, mean=0.5, std=0.5)
    half = paddle.full([1, 3, 8, 8], 0.5)
    assert small.input_size == (16, 16) and np.abs(small(half).numpy()).max() < 1e-5


@needs_onnx
def test_a_finer_map_is_averaged_and_a_coarser_one_repeated_only_where_asked(tmp_path, images):
    path = write_onnx(tmp_path / "net.onnx")
    sizes = {"image_size": 16, "mean": 0, "std": 1}
    with pytest.raises(ConfigError, match=r"a map of 4 x 4 features.*2 x 2 patches.*fit=pool"):
        build_teacher("file", weights=path, patch_size=8, **sizes)
    with pytest.raises(ConfigError, match=r"8 x 8 patches.*fit=repeat"):
        build_teacher("file", weights=path, patch_size=2, fit="pool", **sizes)
    as_map = expected(images).reshape(5, 4, 4, WIDTH)
    pooled = build_teacher("file", weights=path, patch_size=8, fit="pool", **sizes)(images)
    close(pooled, as_map.reshape(5, 2, 2, 2, 2, WIDTH).mean((2, 4)).reshape(5, 4, WIDTH))
    repeated = build_teacher("file", weights=path, patch_size=2, fit="repeat", **sizes)(images)
    close(repeated, as_map.repeat(2, 1).repeat(2, 2).reshape(5, 64, WIDTH))


@needs_onnx
@pytest.mark.parametrize("written, options, match", [
    ({}, {"mean": None}, r"does not say how images are normalised.*mean=\[0.485"),
    ({}, {"std": 0}, "std is"), ({}, {"mean": [0, 1]}, "mean is"),
    ({"size": ("h", "w")}, {}, "does not say which size"), ({}, {"input_size": 32}, "takes images of 16 x 16.*32 x 32"),
    ({"layout": "nhwc"}, {}, r"a map of 4 x 5 features.*layout=nhwc"),
    ({}, {"layout": "tokens"}, r"shape \(batch, 5, 4, 4\), which is no tokens.*layout=nchw"),
    ({"layout": "tokens"}, {"layout": "nchw"}, r"shape \(batch, 16, 5\), which is no nchw.*layout=tokens"),
    ({"layout": "tokens", "leading": 1}, {}, r"shape \(batch, 17, 5\).*17 form no grid.*leading=1"),
    ({"layout": "tokens", "leading": 1}, {"leading": 1, "grid": [3, 5]}, "no grid of 3 x 5"),
    ({}, {"layout": "nchhw"}, "Expected one of nchw, nhwc, tokens"), ({}, {"leading": 1}, "leading and .grid are for"),
    ({"more": True}, {}, r"several outputs.*0 \(map\), 1 \(mean\)"),
    ({"more": True}, {"output": "features"}, "no output 'features'"),
    ({"more": True}, {"output": "mean"}, "a map of 1 x 1"), ({"inputs": 2}, {}, "2 inputs"),
    ({}, {"fit": "crop"}, "fit is 'crop'"), ({}, {"sha256": "0" * 64}, "SHA-256")])
def test_what_is_missing_or_does_not_fit_is_named_with_what_would(tmp_path, written, options, match):
    path = write_onnx(tmp_path / "net.onnx", **written)
    with pytest.raises((ConfigError, WeightsError), match=match):
        build_teacher("file", weights=path, **{**PLAIN, **options})


@needs_onnx
def test_a_grid_that_is_no_square_is_read_or_asked_for(tmp_path):
    path = write_onnx(tmp_path / "net.onnx", size=(16, 32), layout="tokens")
    images = paddle.to_tensor(np.random.RandomState(2).rand(2, 3, 16, 32).astype(np.float32))
    sizes = {"patch_size": 4, "mean": 0, "std": 1}
    close(build_teacher("file", weights=path, image_size=(16, 32), **sizes)(images), expected(images))
    with pytest.raises(ConfigError, match="32 form no grid of an image of 16 x 32"):
        build_teacher("file", weights=path, image_size=(8, 16), **sizes)
    asked = build_teacher("file", weights=path, image_size=(8, 16), grid=[4, 8], fit="pool", **sizes)
    assert asked.grid == (2, 4) and asked.layout.grid == (4, 8)


@pytest.mark.parametrize("name, match", [("net.pth", "expected an ONNX file"), ("gone.onnx", "no such file"),
                                         (None, "no file was given")])
def test_what_is_no_graph_is_refused(tmp_path, name, match):
    with pytest.raises(WeightsError, match=match):
        build_teacher("file", weights=name and str(tmp_path / name), **PLAIN)


@needs_onnx
def test_a_damaged_file_and_lost_weights_are_named(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(WeightsError, match="bad.onnx: cannot be loaded by onnxruntime"):
        build_teacher("file", weights=str(tmp_path / "bad.onnx"), **PLAIN)
    path = write_onnx(tmp_path / "net.onnx", external=True)
    (tmp_path / "kernel.bin").unlink()
    with pytest.raises(WeightsError, match="beside it"):
        build_teacher("file", weights=path, **PLAIN)


@needs_onnx
@pytest.mark.parametrize("external", [False, True])
def test_features_of_another_file_are_not_those_that_were_kept(tmp_path, external, monkeypatch):
    def identity(folder):
        folder.mkdir()
        return build_teacher("file", weights=write_onnx(folder / "net.onnx", external=external), **PLAIN).identity()

    first, same = identity(tmp_path / "first"), identity(tmp_path / "same")
    monkeypatch.setitem(globals(), "KERNEL", KERNEL + 1)
    assert first == same != identity(tmp_path / "other")
    if not external:
        assert first["file"] == hashlib.sha256((tmp_path / "first" / "net.onnx").read_bytes()).hexdigest()


@needs_onnx
def test_images_of_one_channel_are_refused(tmp_path):
    teacher = build_teacher("file", weights=write_onnx(tmp_path / "net.onnx"), **PLAIN)
    with pytest.raises(ShapeError, match="RGB"):
        teacher(paddle.rand([1, 1, 16, 16]))

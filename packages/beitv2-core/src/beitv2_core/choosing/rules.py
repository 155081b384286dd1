# SPDX-License-Identifier: Apache-2.0
"""The rules by which settings are chosen for a user's own images. docs/own-images.md says them in words.

Each is a pure function of numbers and gives a `Choice`: what was chosen, and why.  The paper's numbers are for
ImageNet-1k and days of eight GPUs; where they hold for any size they are kept, the others grow from a small run that
learns in minutes to the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from ..errors import ConfigError, DataError

#: fewest images a run is possible with
FEWEST_IMAGES = 8
#: below so many images features are hardly better than those of random weights
FEW_IMAGES = 1000
#: pixels of the smallest image a model is built for; smaller ones are enlarged
SMALLEST_SIDE = 16
LARGEST_PATCH = 16
#: (patches along a side, TFLOP in the time of the run from which on): a finer grid costs its square in steps, and a run
#: of minutes learns more from many steps on 16 patches than from few on 64.  14 is the paper's.
GRIDS = ((14, 10_000.0), (8, 800.0), (4, 0.0))
#: share of a device's matrix products that models as small as these reach
SHARE_OF_PEAK = 0.25
#: share of the training time that the tokenizer gets
TOKENIZER_SHARE = 0.1
#: steps below which a stage learns nothing worth having
FEWEST_STEPS = 20
#: passes over the images of the paper's longest run
MOST_PASSES = 1600
#: images behind one update at which the rates below were found
BATCH = 64


class Choice(NamedTuple):
    """What was chosen, and why: one line for the user."""

    value: Any
    reason: str


class Size(NamedTuple):
    """A backbone; from_images: images it must see in the given time to be worth it."""

    width: int
    depth: int
    heads: int
    from_images: float


#: smallest first.  The first two were measured on 32 and 64 pixel images; the last are the paper's small and base
SIZES = (
    Size(96, 4, 3, 0),
    Size(144, 6, 3, 6e4),
    Size(192, 8, 3, 4e5),
    Size(192, 12, 3, 1e6),
    Size(384, 12, 6, 4e6),
    Size(768, 12, 12, 2e7),
)


def enough_images(images: int) -> Choice:
    """What can be expected of so many images; DataError for fewer than a run is possible with."""
    if images < FEWEST_IMAGES:
        raise DataError(f"{images} image(s): at least {FEWEST_IMAGES} are needed for a run, {FEW_IMAGES:,} or more for "
                        "features that are worth having. Give more images.")
    if images < FEW_IMAGES:
        return Choice(images, f"fewer than {FEW_IMAGES:,}: the run shows that everything works, but expect features "
                              "hardly better than those of random weights")
    return Choice(images, "enough to learn from")


def held_out_images(images: int) -> Choice:
    """Images kept out of both trainings, to measure on: a tenth, at most 1,000."""
    count = max(2, min(1000, images // 10))
    return Choice(count, "a tenth of the images, at most 1,000: results are measured on images not seen")


def patch_and_image(short_side: int, tflop: float) -> tuple[Choice, Choice]:
    """(pixels of a patch's side, pixels of the image's side) for images whose shorter side has `short_side` pixels.

    Patches are even (HOG cuts them into 2 x 2 cells) and have 4 to 16 pixels: those that make the largest image of the
    grid that the compute allows (of patches of 4 pixels or more), or of three quarters of it, but of at
    least 4 x 4.  Images are never enlarged, but for tiny ones.  tflop: what the device computes in the time.
    """
    side = max(short_side, SMALLEST_SIDE)
    grid = min(next(count for count, least in GRIDS if tflop >= least), side // 4)
    fewest = max(GRIDS[-1][0], math.ceil(0.75 * grid))
    image, rows, patch = max((size * min(grid, side // size), min(grid, side // size), size)
                             for size in range(4, LARGEST_PATCH + 1, 2) if side // size >= fewest)
    seen = f"the shorter side has {short_side} pixels"
    why = (f"{seen}; images are enlarged" if short_side < SMALLEST_SIDE else
           f"{seen}: images are read as they are" if image == side else
           f"{seen}; the largest image of such patches that the time allows")
    return (Choice(patch, f"{rows} x {rows} patches of at most {LARGEST_PATCH} pixels: the grid for what "
                          f"this machine computes in the time, about {_round(tflop):,} TFLOP"), Choice(image, why))


def model_size(patches: int, tflop: float) -> Choice:
    """The largest backbone that sees enough images in the time; value: a `Size`."""
    chosen, seen = SIZES[0], 0.0
    for size in SIZES:
        # 12 width^2 weights a block, two FLOP each, forward and twice that backward
        images = SHARE_OF_PEAK * tflop * 1e12 / (72.0 * size.width ** 2 * size.depth * patches)
        if size is SIZES[0] or images >= size.from_images:
            chosen, seen = size, images
    return Choice(chosen, f"the largest of {len(SIZES)} sizes that sees enough images in the time "
                          f"(about {_round(seen):,} by the speed of matrix products)")


def tokenizer_size(backbone: Size) -> Choice:
    """The tokenizer's encoder; value: (width, depth, heads, depth of the decoder).

    Two thirds as wide and half as deep as a small backbone; as large from width 384 on, as in the paper.
    """
    if backbone.width >= 384:
        return Choice((backbone.width, backbone.depth, backbone.heads, 1), "as large as the backbone, as in the paper")
    width = max(96, backbone.width * 2 // 3 // 48 * 48)
    return Choice((width, max(3, backbone.depth // 2), width // 32, 1),
                  "two thirds as wide (a multiple of 48) and half as deep as the backbone, but at least 96 x 3: it "
                  "only has to tell patches apart")


def codebook_size(patch: int, patches_there: int, patches_seen: float, *, hog: bool) -> Choice:
    """Codes: a power of two, as many as there is to tell apart and as are seen often enough to be learnt.

    patch: pixels of its side; patches_there: in all images; patches_seen: by the tokenizer, in its time.
    """
    limits = {
        f"{patch} x {patch} pixels show no more to tell apart" if hog else "as in the paper":
            32.0 * patch if hog else 8192.0,
        f"each code needs 32 of the {patches_there:,} patches there are": patches_there / 32,
        "each code must be seen 8,000 times in the tokenizer's time": max(64.0, patches_seen / 8000),
    }
    reason = min(limits, key=lambda name: limits[name])
    codes = 2 ** int(math.log2(max(16.0, min(8192.0, limits[reason]))))
    return Choice(codes, f"{reason}; a power of two")


def batch_size(images: int, largest: Optional[int], *, gpu: bool, processes: int = 1) -> Choice:
    """Images a process handles at once: 64 on a CPU, 256 on a GPU, less where memory or images are few.

    images: to train on; largest: batch that fits the free memory, None where it is not known.
    """
    wanted = 256 if gpu else BATCH
    limits = {f"{wanted} where memory and images allow it": wanted,
              f"at least two updates in a pass over {images:,} images": max(1, images // (2 * processes))}
    if largest is not None:
        limits["half of the free memory"] = max(1, largest // 2)
    reason = min(limits, key=lambda name: limits[name])
    return Choice(2 ** int(math.log2(limits[reason])), f"{reason}; a power of two")


def masked_patches(patches: int) -> Choice:
    """(hidden patches of an image, fewest in one block): two fifths, in blocks of at least a twelfth; as the paper."""
    hidden = min(patches - 1, max(1, round(0.4 * patches)))
    return Choice((hidden, max(1, min(hidden, round(patches / 12)))),
                  "two fifths of the patches, in blocks of at least a twelfth, as in the paper")


def learning_rates(batch: int, width: int) -> tuple[Choice, Choice]:
    """(tokenizer, backbone): 1e-3 and 1.5e-3 at 64 images, by the square root of the batch; less for wide backbones."""
    root = math.sqrt(batch / BATCH)
    narrow = min(1.0, 144 / width)
    return (Choice(_significant(1e-3 * root), f"1e-3 for {BATCH} images, by the square root of the batch"),
            Choice(_significant(1.5e-3 * root * narrow),
                   f"1.5e-3 for {BATCH} images, by the square root of the batch"
                   + (" and, from width 144 on, inversely by width" if width > 144 else "")))


def warm_up(steps: int) -> Choice:
    """Steps of linear warm-up: a twentieth."""
    return Choice(max(1, steps // 20), "a twentieth of the steps")


def before_codes(steps: int) -> Choice:
    """Tokenizer steps without codes, before k-means starts the codebook: three tenths."""
    return Choice(max(1, 3 * steps // 10), "three tenths of the steps: k-means starts the codebook from features that "
                                           "mean something already, so that all codes are used")


def most_steps(images: int, total_batch: int) -> int:
    """Steps of 1,600 passes over the images: the paper's longest run; more of few images is learning by heart."""
    return max(FEWEST_STEPS, MOST_PASSES * max(1, images // total_batch))


def tokenizer_steps(seconds: float, step: float, most: int) -> Choice:
    """Steps of the tokenizer: a tenth of the training time, and 300 where these fit into a third of it.

    seconds: left for training; step: measured seconds of one; most: by `most_steps`.
    """
    wanted = int(max(TOKENIZER_SHARE * seconds, min(300 * step, seconds / 3)) / step)
    if wanted > most:
        return Choice(most, _passes(most, step))
    share = 100 * wanted * step / max(seconds, 1e-9)
    return Choice(wanted, f"{share:.0f} % of the training time at {step:.3f} s a step, measured")


def backbone_steps(seconds: float, step: float, most: int) -> Choice:
    """Steps of the backbone: all the seconds left after the tokenizer."""
    wanted = int(seconds / step)
    if wanted > most:
        return Choice(most, _passes(most, step))
    return Choice(wanted, f"the rest of the training time at {step:.3f} s a step, measured")


def _passes(steps: int, step: float) -> str:
    return (f"{MOST_PASSES:,} passes over the images, as in the paper's longest run: about {steps * step / 60:.1f} "
            "minutes; more would be learning by heart")


def enough_time(seconds: float, steps: tuple[int, int], rates: tuple[float, float]) -> None:
    """Raise ConfigError where a stage gets too few steps to be worth starting; seconds: left for training."""
    if min(steps) < FEWEST_STEPS:
        least = FEWEST_STEPS * (3 * rates[0] + 1.5 * rates[1])
        raise ConfigError(f"--minutes: {max(0.0, seconds):.0f} s of them are left for training; at the measured rates "
                          f"({rates[0]:.2f} and {rates[1]:.2f} s a step) that is no run. Give at least "
                          f"{math.ceil((least - seconds) / 6) / 10:.1f} minutes more.")


def report_images(held_out: int, seconds: float, image: float) -> Choice:
    """Held-out images of the report: all that take at most 3 % of the time.  image: measured seconds for one."""
    count = max(min(held_out, 64), min(held_out, round(0.03 * seconds / image)))
    return Choice(count, "all that were held out" if count == held_out else "as many as 3 % of the time allow")


def every(seconds: float, step: float, steps: int) -> int:
    """Steps that take about so many seconds; 1 to `steps`."""
    return max(1, min(steps, round(seconds / step)))


def loader_processes(read: float, step: float, cores: int, *, gpu: bool) -> Choice:
    """Processes that decode images; read: seconds for a batch in place, step: of one update, both measured."""
    share = read / (read + step)
    if share < 0.1:
        return Choice(0, f"reading takes {100 * share:.0f} % of a step: no processes are worth starting for it")
    most = max(1, cores if gpu else cores // 2)
    count = min(most, math.ceil(1.2 * read / step))
    return Choice(count, f"reading takes {100 * share:.0f} % of a step in place: {count} of {cores} cores do it beside")


def smaller_decoding(short_side: int, image: int) -> Choice:
    """Whether JPEG files are decoded smaller: where they are at least twice the model's size."""
    worth = short_side >= 2 * image
    return Choice(worth, f"images are {'at least twice' if worth else 'less than twice'} as large as the model reads "
                         "them")


def broken_allowed(share: float) -> Choice:
    """Share of undecodable files that stops the run: 1 %, or twice what was found."""
    return Choice(round(max(0.01, 2 * share), 4), "1 %, or twice the share that was found")


class Installed(NamedTuple):
    """A real teacher that is on this machine.

    weights: path of its file, None where its package brings them; cost: seconds of a batch's features (TFLOP of those
    of 64 images for each patch, before the device's speed is known); learnt: with which labels, "" without.
    """

    weights: Optional[str]
    cost: float
    learnt: str = ""


def teacher(installed: Mapping[str, Installed], seconds: float) -> Choice:
    """The teacher; value: (name, path of its weights, None for HOG and where a package brings them).

    installed: by name; seconds: of the tokenizer's time.  A real one is taken where 300 of its batches fit into half of
    that time.
    """
    for name, one in installed.items():
        if 300 * one.cost <= seconds / 2:
            taught = one.learnt and f"; it learnt from {one.learnt}"
            return Choice((name, one.weights), f"its weights are on this machine ({one.weights or 'its package'}), and "
                                               f"its features fit the time{taught}")
    if installed:
        return Choice(("hog", None), f"{' and '.join(installed)}: the weights are there, but 300 batches of features "
                                     f"do not fit into half of the tokenizer's {seconds:.0f} s")
    return Choice(("hog", None), "needs no weights; none of a real teacher are on this machine (beitv2 download "
                                 "clip_vit_b16; pip install 'beitv2-core[lite0]')")


def _significant(value: float) -> float:
    """Two significant digits."""
    return float(f"{value:.2g}")


def _round(value: float) -> int:
    return int(float(f"{value:.1g}")) if value >= 10 else int(value)

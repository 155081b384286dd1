# SPDX-License-Identifier: Apache-2.0
"""Views whose results are known, for the tests of the page."""

from __future__ import annotations

import numpy as np
from PIL import Image

from beitv2_core.serve.results import (
    ClassesResult,
    ClassShare,
    CodeSeen,
    CodesResult,
    Neighbour,
    NeighboursResult,
    features_result,
    image_url,
    label_map_result,
    png_url,
)
from beitv2_core.serve.views import View

GRID = [[5, 5, 0], [3, 5, 5]]
HOSTILE = "<img src=x onerror=alert(1)>"


def show_classes(image):
    return ClassesResult(seen=image_url(image), classes=[ClassShare(name="a cat", probability=0.62),
                                                           ClassShare(name=HOSTILE, probability=0.0504)])


def show_segmentation(image):
    labels = np.zeros((image.height, image.width), dtype=int)
    labels[:, image.width * 3 // 4:] = 1
    return label_map_result(image, labels, ["sky", "sea"], colours=np.array([[0, 0, 255], [255, 0, 0]]))


def show_codes(image):
    patches = png_url(Image.new("RGB", (17, 8), "red"))
    codes = [CodeSeen(code=5, colour="#102030", count=4, gallery_count=9, patches=patches, num_patches=2),
             CodeSeen(code=0, colour="#f0e0d0", count=1, gallery_count=0, patches=None, num_patches=0),
             CodeSeen(code=3, colour="#00ff00", count=1, gallery_count=1, patches=patches, num_patches=2)]
    return CodesResult(seen=image_url(image.resize((48, 32))), grid=GRID, num_codes=16, gallery_images=7,
                       codes=codes)


VIEWS = [View("classes", "Classes", "The likeliest classes.", show_classes),
         View("segmentation", "Segmentation", "A class for every pixel.", show_segmentation),
         View("codes", "Codes", "The codes.", show_codes)]


def show_features(image):
    features = np.zeros((2, 3, 4))
    features[0, :, 0] = features[1, :, 1] = 1
    features[0, 2] = (3, 4, 0, 0)
    return features_result(image.resize((48, 32)), features, np.ones((2, 2, 3)))


def show_neighbours(image):
    return NeighboursResult(seen=image_url(image), images=9, neighbours=[
        Neighbour(name="cats/1.png", similarity=0.98765, image=png_url(Image.new("RGB", (40, 20), "red"))),
        Neighbour(name=HOSTILE, similarity=-0.2, image=None)])


LEARNT = [View("features", "Features", "Patches.", show_features),
          View("neighbours", "Nearest images", "Of a file.", show_neighbours)]

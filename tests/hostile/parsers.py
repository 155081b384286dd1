# SPDX-License-Identifier: Apache-2.0
"""Everything that reads files of others: whole inputs, hostile ones made by hand, and the function that reads them.

Building the inputs and reading them happens in the program of `fuzz_program`, so that each imports what it needs only.
"""

from __future__ import annotations

import data_parsers as data
import model_parsers as models
from image_files import MAX_PIXELS, images, label_maps
from seeds import MEGABYTE, Parser, single

PARSERS: dict[str, Parser] = {
    # 40 bytes a pixel: 32-bit greys are scaled in floats, beside what Pillow holds
    "images": Parser(data.read_image, lambda: single(images()), data.costly_images, 64 * MEGABYTE + 40 * MAX_PIXELS,
                     16),
    "sent images": Parser(data.read_sent_image, lambda: single(images()), data.costly_images,
                          64 * MEGABYTE + 40 * MAX_PIXELS,
                          16),
    "label maps": Parser(data.read_label_map, lambda: single(label_maps()), data.costly_images,
                         64 * MEGABYTE + 40 * MAX_PIXELS,
                         16),
    "COCO": Parser(data.read_coco, data.coco_seeds, data.costly_coco),
    "lists": Parser(data.read_list, data.list_seeds),
    "settings": Parser(models.read_config, models.config_seeds, models.hostile_config),
    "checkpoints": Parser(models.read_checkpoint, models.checkpoint_seeds, seal=models.sealed_checkpoint),
    "weights": Parser(models.read_weights, models.weights_seeds, models.hostile_weights),
    "shards": Parser(data.read_shard, data.shard_seeds, data.hostile_shards, 64 * MEGABYTE + 40 * MAX_PIXELS),
    "features": Parser(models.read_features, models.feature_seeds, models.hostile_features),
    "caches": Parser(models.read_cache, models.cache_seeds),
    "exports": Parser(models.read_export, models.export_seeds, seal=models.sealed_export),
    "teachers": Parser(models.read_teacher, lambda: single({"teacher.onnx": models.onnx_graph()})),
    "model folders": Parser(models.read_folder, models.folder_seeds, models.hostile_folders),
    "runs": Parser(models.read_folder, models.run_seeds, seal=models.sealed_checkpoint),
}
#: those whose program imports Paddle
WITH_PADDLE = ("teachers", "model folders", "runs")

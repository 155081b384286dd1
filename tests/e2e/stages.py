# SPDX-License-Identifier: Apache-2.0
"""Small runs of all four stages, one after the other, in one process or in each process of a launch.

    python stages.py FOLDER BATCH STEPS STAGE... [KEY=VALUE...] [stop_after=N]
    python -m paddle.distributed.launch --nproc_per_node 2 --backend gloo --log_dir LOGS \\
        stages.py FOLDER BATCH STEPS STAGE...

BATCH: images of a process at once.  Every stage trains with total batches of 8 images into FOLDER/STAGE;
pretraining reads FOLDER/../tokens.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import beitv2_core  # noqa: F401  before paddle

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TOTAL = 8
#: of the three stages with core's settings; 100 images: an epoch of 12 updates, the rest is dropped
COMMON = ["data.size=100", "optim.warmup_steps=2", "train.log_every=1", "train.save_every=10", "train.keep_last=100",
          f"train.total_batch={TOTAL}"]
TRUNK = ["model.width=24", "model.num_heads=2", "model.drop_path=0.3"]
TOKENIZER = ["encoder.width=24", "encoder.depth=2", "decoder.width=24", "decoder.depth=1", "quantizer.num_codes=16",
             "encoder.drop_path=0.3", "health.unquantized_steps=4", "health.kmeans_batches=2", "health.revive_after=3"]
SEGMENT = ["model.channels=8", "model.aux_channels=4", "model.dropout=0.2", "model.backbone.width=12",
           "model.backbone.num_heads=2", "model.backbone.pretrained=null", "model.backbone.drop_path=0.3",
           "train_dataset.size=100", "lr_scheduler.warmup=2", f"total_batch={TOTAL}"]


def build(stage: str, folder: Path, batch: int, steps: int, changes: list[str]) -> Any:
    """The loop of a stage; the total batch is `TOTAL` unless `changes` say otherwise."""
    if stage == "segment":
        from beitv2_seg.assembly import build_segmentation
        from beitv2_seg.config import read_config_file

        flags = {"output": str(folder / stage), "iters": steps, "batch_size": batch, "run.log_iters": 1,
                 "run.save_interval": 10, "run.keep_checkpoint_max": 100}
        return build_segmentation(read_config_file("digit_scenes", opts=[*SEGMENT, *changes], flags=flags))
    from beitv2_core.config import load_config

    run = [f"output={folder / stage}", f"train.batch_size={batch}", f"optim.steps={steps}"]
    if stage == "finetune":
        from beitv2_cls.assembly import build_finetuning
        from beitv2_cls.config import FinetuneConfig

        settings = [*COMMON, *TRUNK, *run, "data.image_size=32", "pretrained.weights=null", "validation.size=33",
                    "validation.every_epochs=100"]
        return build_finetuning(load_config(CONFIGS / "cls/digit_scenes.yml", [*settings, *changes], FinetuneConfig))
    from beitv2_core.assembly import build_training

    settings = [*COMMON, *(TOKENIZER if stage == "tokenizer" else TRUNK), *run, "data.image_size=32"]
    if stage == "pretrain":
        settings.append(f"tokenizer.weights={folder.parent / 'tokens'}")
    return build_training(load_config(CONFIGS / stage / "digit_scenes.yml", [*settings, *changes]))


if __name__ == "__main__":
    where, images, length, *rest = sys.argv[1:]
    parts = dict(word.split("=") for word in rest if word.startswith("stop_after="))
    settings = [word for word in rest if "=" in word and not word.startswith("stop_after=")]
    for name in [word for word in rest if "=" not in word]:
        run = build(name, Path(where), int(images), int(length), settings)
        run.run(stop_after=int(parts["stop_after"]) if parts else None)
        kept = sum(value.numpy().nbytes for values in run.optimizer._accumulators.values() for value in values.values())
        (Path(where) / name / f"optimizer_bytes_{os.environ.get('PADDLE_TRAINER_ID', 0)}").write_text(str(kept))

# SPDX-License-Identifier: Apache-2.0
"""Exported models of base size against the live ones: largest differences, and the tokenizer's speed.

    python benchmarks/bench_export.py                     # paddle and onnx, about ten minutes on two cores
    python benchmarks/bench_export.py --form onnx --kind tokenizer -o result.json

Weights are random in every place (biases, bias tables, layer scale and batch statistics too), so that a fault in any
of them shows.  The differences are those `export_model` measures itself and refuses to write above 1e-4; batches of 1
and 3.  Speed: tokenizing one image and a batch of 8, live and exported in turns, the best of all rounds counts.
Writes benchmarks/export_[hardware]_[yyyymm].json, in the form that benchmarks/README.md describes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beitv2_core import runtime  # before Paddle: threads and the MKL path

# isort: split
import numpy as np
import paddle
from harness.outcome import Metric, outcome, path_of, write

from beitv2_cls.classifier import BEiTClassifier
from beitv2_core.commands.export import difference_lines
from beitv2_core.exported_model import load_exported
from beitv2_core.exporting import Exportable, export_model, exportable_features, exportable_tokenizer
from beitv2_core.exporting.sources import exportable_logits
from beitv2_core.models.backbone import SIZES
from beitv2_core.models.mim import BEiTForMaskedImageModeling
from beitv2_core.models.vqkd import build_published
from beitv2_seg.model.backbone import BEiTv2
from beitv2_seg.model.segmentor import BEiTv2UPerNet
from beitv2_seg.plugins.export import exportable_segmentor

ROUNDS = 7


def randomised(model: Any) -> Any:
    """The model in eval mode with every constant parameter and statistic replaced by random numbers."""
    for name, parameter in model.named_parameters():
        if name.endswith("_variance"):
            parameter.set_value(paddle.rand(parameter.shape) + 0.5)
        elif "gamma_" in name:
            parameter.set_value(paddle.rand(parameter.shape) * 0.2)
        elif parameter.ndim == 1 or name.endswith("relative_position_bias_table"):
            centre = 1.0 if float(parameter.mean()) > 0.5 else 0.0
            parameter.set_value(centre + 0.1 * paddle.randn(parameter.shape))
    model.eval()
    return model


def tokenizer() -> Any:
    """The published architecture with random codes."""
    return randomised(build_published("vqkd_encoder_base_decoder_3x768x12_clip", kmeans_init=False))


def classifier() -> Exportable:
    model = BEiTClassifier(num_classes=1000, use_rel_pos_bias=True, init_values=0.1, head_scale=1.0, **SIZES["base"])
    return exportable_logits(randomised(model), kind="classifier", classes=tuple(str(i) for i in range(1000)),
                             image_size=(224, 224), crop_share=0.875)


def features() -> Exportable:
    model = BEiTForMaskedImageModeling(early_layers=9, use_shared_rel_pos_bias=True, init_values=0.1, **SIZES["base"])
    return exportable_features(randomised(model))


def segmenter() -> Exportable:
    model = randomised(BEiTv2UPerNet(150, BEiTv2(size="base", image_size=512)))
    return exportable_segmentor(model, image_size=(512, 512), classes=[str(i) for i in range(150)])


KINDS: dict[str, Callable[[], Exportable]] = {
    "tokenizer": lambda: exportable_tokenizer(tokenizer()), "classifier": classifier, "features": features,
    "segmenter": segmenter}


def speed(case: str, live: Any, folder: Path) -> list[Metric]:
    """Seconds of `tokenize`, live and exported in turns, for batches of 1 and 8."""
    exported = load_exported(folder)
    found = []
    for batch in (1, 8):
        images = np.random.default_rng(0).random((batch, 3, 224, 224), dtype=np.float32)
        tensor = paddle.to_tensor(images)
        times: dict[str, list[float]] = {"live": [], "exported": []}
        for _ in range(ROUNDS + 1):
            for name, run in (("live", lambda t=tensor: live.tokenize(t).numpy()),
                              ("exported", lambda i=images: exported.run(i)["codes"])):
                began = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - began)
        at = {"batch": batch}
        best = {name: min(values[1:]) for name, values in times.items()}  # the first round warms up
        found += [Metric(case, f"{name}_seconds", "s", best[name], values[1:], at=at) for name, values in times.items()]
        ratios = [one / other for one, other in zip(times["live"][1:], times["exported"][1:])]
        found.append(Metric(case, "speed_over_live", "", best["live"] / best["exported"], ratios, at=at))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    parser.add_argument("--form", choices=("paddle", "onnx"), action="append", help="default: both")
    parser.add_argument("-o", "--output", type=Path, help="default benchmarks/export_[hardware]_[yyyymm].json")
    options = parser.parse_args()
    runtime.keep_freed_memory()  # as the commands do
    load = os.getloadavg()[0]
    cases: dict[str, str] = {}
    metrics: list[Metric] = []
    for kind in options.kind or KINDS:
        for form in options.form or ("paddle", "onnx"):
            case = f"{kind}_{form}"
            cases[case] = f"{kind}, base, exported as {form}"
            paddle.seed(0)
            with tempfile.TemporaryDirectory() as folder:
                path, model = Path(folder) / "model", KINDS[kind]()
                description = export_model(model, path, form=form)
                metrics += [Metric(case, f"difference of {name}, {runner}", "", value, [value], at={"batch": batch})
                            for runner, sizes in description.differences.items()
                            for batch, outputs in sizes.items() for name, value in outputs.items()]
                for line in difference_lines(description):
                    print(f"{kind:<11}{form:<8}{line}", flush=True)
                if kind == "tokenizer":
                    timed = speed(case, model.graph.tokenizer, path)
                    for one in timed:
                        print(f"{kind:<11}{form:<8}batch {one.at['batch']}: {one.metric.replace('_', ' ')} "
                              f"{one.value:.3f} {one.unit}", flush=True)
                    metrics += timed
    result = outcome("export", cases, metrics, rounds=ROUNDS, load=load)
    if (options.kind or options.form) and not options.output:
        print("not written: a result file holds all exports; give --output to keep a part.")
        return
    path = options.output or path_of(result)
    write(result, path)
    print(f"written: {path}")


if __name__ == "__main__":
    main()

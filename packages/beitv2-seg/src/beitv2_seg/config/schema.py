# SPDX-License-Identifier: Apache-2.0
"""What a segmentation run consists of: PaddleSeg's YAML, checked before anything is built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Optional, Union

from pydantic import ConfigDict, Field, model_validator

from beitv2_core.config.schema import grid_of
from beitv2_core.config.sections import Section, Sharding, impossible, pair, required
from beitv2_core.data.sources.image_file import MAX_PIXELS
from beitv2_core.errors import DataError
from beitv2_seg.config.class_table import read_table

#: arguments of data sets, losses and transforms, ours and PaddleSeg's, that say which label is ignored
IGNORED_KEYS = ("ignore_index", "label_padding_value")


class Component(Section):
    """A PaddleSeg component: `type` names it, the other keys are its arguments, checked when it is built."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str = Field(description="name of the component")

    def options(self) -> dict[str, Any]:
        """The arguments, without the type."""
        return dict(self.model_extra or {})


class SegmentorConfig(Component):
    """The model: `BEiTv2UPerNet` and its backbone."""

    num_classes: int = Field(gt=1, description="classes; labels are 0 .. num_classes - 1")
    backbone: Component


class LossConfig(Section):
    """One loss for each output of the model, and its weight."""

    types: list[Component] = Field(min_length=1, description="losses, the decoder's first")
    coef: list[float] = Field(min_length=1, description="their weights")

    @model_validator(mode="before")
    @classmethod
    def _one_for_all_outputs(cls, values: Any) -> Any:
        """PaddleSeg's rule: a single loss with several weights is the loss of every output."""
        types, weights = (values.get("types"), values.get("coef")) if isinstance(values, dict) else (None, None)
        if isinstance(types, list) and isinstance(weights, list) and len(types) == 1 < len(weights):
            return {**values, "types": types * len(weights)}
        return values

    @model_validator(mode="after")
    def _one_weight_each(self) -> LossConfig:
        if len(self.types) != len(self.coef):
            raise impossible("coef", f"{len(self.coef)} weights for {len(self.types)} losses; expected one each")
        return self


class TestConfig(Section):
    """How images are read when they are evaluated or predicted; PaddleSeg's keys."""

    __test__ = False  # pytest must not take this for a test
    is_slide: bool = Field(default=False, description="sliding windows")
    crop_size: Optional[tuple[int, int]] = Field(default=None, description="(width, height) of a window, pixels")
    stride: Optional[tuple[int, int]] = Field(default=None, description="(width, height) between windows, pixels")
    window_weights: Literal["uniform", "gaussian"] = Field(
        default="uniform", description="of a window's pixels in the mean over windows: gaussian trusts its middle more "
        "than its edges, and seams get fainter")
    aug_eval: bool = Field(default=False, description="several scales and mirrored images, probabilities averaged")
    scales: tuple[float, ...] = Field(default=(1.0,), min_length=1, description="scales of aug_eval")
    flip_horizontal: bool = Field(default=False, description="aug_eval: also mirrored left to right")
    flip_vertical: bool = Field(default=False, description="aug_eval: also upside down")

    @model_validator(mode="before")
    @classmethod
    def _one_scale(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("scales"), (int, float)):
            return {**values, "scales": [values["scales"]]}
        return values

    @model_validator(mode="after")
    def _windows_are_complete(self) -> TestConfig:
        for key in ("crop_size", "stride"):
            value = getattr(self, key)
            if self.is_slide and value is None:
                raise required(key, "the size of a sliding window and the step between two, [width, height] in pixels")
            if value is not None and min(value) < 1:
                raise impossible(key, f"{list(value)}; expected [width, height] above 0")
        if min(self.scales) <= 0:
            raise impossible("scales", f"{list(self.scales)}; expected numbers above 0")
        return self

    @property
    def read_scales(self) -> tuple[float, ...]:
        """The scales an image is read at."""
        return self.scales if self.aug_eval else (1.0,)

    @property
    def flips(self) -> list[tuple[int, ...]]:
        """The axes of (1, C, H, W) each reading is mirrored along; PaddleSeg's order."""
        flips: list[tuple[int, ...]] = [()]
        if self.aug_eval and self.flip_horizontal:
            flips.append((3,))
        if self.aug_eval and self.flip_vertical:
            flips += [(2,), (2, 3)] if self.flip_horizontal else [(2,)]
        return flips


class RunSection(Section):
    """What PaddleSeg takes from flags only; here a flag that is given wins over the YAML and `--opts`."""

    seed: int = Field(default=0, ge=0, description="seed of weights, order and augmentation")
    num_workers: int = Field(default=0, ge=0, description="processes that decode images; 0: the training process")
    save_interval: int = Field(default=1000, gt=0, description="iterations between checkpoints and evaluations")
    log_iters: int = Field(default=10, gt=0, description="iterations between log lines")
    keep_checkpoint_max: int = Field(default=5, gt=0, description="newest checkpoints kept")
    do_eval: bool = Field(default=False, description="evaluate at every save_interval, keep the best weights")
    early_stop_intervals: Optional[int] = Field(default=None, gt=0, description="stop after that many evaluations "
                                                                               "without a better mIoU")
    use_ema: bool = Field(default=False, description="average the weights and evaluate the average too")
    precision: Literal["fp32", "fp16", "bf16"] = Field(
        default="fp32", description="mixed precision: fp16 on GPUs, bf16 also on CPUs that multiply it")
    sharding: Sharding = Field(default="off", description="divide the optimizer's state among the processes; stage2: "
                                                          "the gradients too. Same updates (flag --sharding)")
    check_every: int = Field(
        default=100, ge=0, description="iterations between comparisons of weights and moments, which must be the same "
        "to the bit in all processes; 0: never. Where they differ the run goes back to its last checkpoint")
    verify_every: int = Field(
        default=0, ge=0, description="every so many iterations one is computed twice and compared bit for bit (flag "
        "--verify_every), which finds errors of a processor or its memory during it; 0: none")
    repeats: int = Field(default=1, gt=0, description="times each sample is used in an epoch")
    windows_at_once: int = Field(default=4, gt=0, description="sliding windows computed together; not in the result")
    other_data: bool = Field(
        default=False, description="a resumed run may go on with other images than it was started with"
    )
    max_corrupt: float = Field(default=0.001, ge=0, le=1, description="share of undecodable files that stops the run")
    max_pixels: int = Field(default=MAX_PIXELS, gt=0, description="most pixels of an image file that is decoded")


class SegmentConfig(Section):
    """A PaddleSeg YAML file and the flags of the command line."""

    kind: Literal["segment"] = Field(default="segment", description="which command reads this file")
    output: str = Field(default="output", description="run folder (flag --save_dir)")
    ignore_index: Optional[int] = Field(default=None, description="label of pixels without a class, for data sets, "
                                        "losses, crops and padding alike; null: what one of them says, or 255")
    label_map: Optional[dict[str, int]] = Field(
        default=None, description="labels of the files -> labels of the model, at reading: {11: 255}, {255: 1}; keys "
        "are numbers, or colours 'R,G,B' of coloured label maps and palettes")
    unlisted_labels: Union[Literal["keep", "refuse"], int] = Field(
        default="keep", description="what becomes of numbers that label_map does not name: they stay, are an error, or "
        "become that class")
    classes: Optional[list[str]] = Field(
        default=None, description="names of the classes, by number; or a text file with a name a line; or a table "
        "{name: number or colour of the files, or a list of them}, with `ignore` for those without a class and `rest` "
        "for all others; null: the data set's own, or numbers")
    held_out: Optional[Union[int, float]] = Field(
        default=None, description="images of train_dataset that val_dataset has instead: a share below 1 or a count, "
        "chosen by their names; the run's folder has the lists (split/)")
    batch_size: int = Field(gt=0, description="images of one process in one forward pass")
    total_batch: Optional[int] = Field(default=None, gt=0, description="images behind one update: batch_size x "
                                       "processes x accumulation; null: no accumulating")
    iters: int = Field(gt=0, description="updates")
    model: SegmentorConfig
    train_dataset: Component
    val_dataset: Component
    test_config: TestConfig = TestConfig()
    optimizer: Component
    lr_scheduler: Component
    loss: LossConfig
    run: RunSection = RunSection()

    @model_validator(mode="before")
    @classmethod
    def _names_of_a_file_or_table(cls, values: Any) -> Any:
        """A file of names becomes a list; a table of classes the list and the map of labels it stands for."""
        if not isinstance(values, dict):
            return values
        if isinstance(values.get("classes"), str):
            return {**values, "classes": read_names(values["classes"])}
        if isinstance(values.get("classes"), dict):
            if values.get("label_map"):
                raise impossible("label_map", "classes is a table that says which labels are which class, and "
                                 "label_map says it too; expected one of them. Write all into classes, or "
                                 "label_map=null")
            table = read_table(values["classes"], next(iter(_ignored_labels(values).values()), 255))
            return {**values, "classes": table.names, "label_map": table.label_map, "unlisted_labels": table.unlisted}
        return values

    @model_validator(mode="after")
    def _labels_fit(self) -> SegmentConfig:
        said = self._ignored_labels()
        for key, value in said.items():
            first = next(iter(said))
            if value != said[first]:
                raise impossible(key, f"{value}, but {first} is {said[first]}: pixels without a class have one label "
                                 "in all parts. Set ignore_index once, at the top, and leave it out elsewhere")
        for source, target in (self.label_map or {}).items():
            if not re.fullmatch(r"\d+|\d+, ?\d+, ?\d+", source):
                raise impossible("label_map", f"{source!r} is no label; expected a number, or a colour as 'R,G,B'")
            if not 0 <= target < self.model.num_classes and target != self.ignored:
                raise impossible("label_map", f"{source} -> {target}, but the model has {self.model.num_classes} "
                                 f"classes (0 .. {self.model.num_classes - 1}) and {self.ignored} is ignored")
        if self.classes is not None and len(set(self.classes)) != self.model.num_classes:
            raise impossible("classes", f"{len(set(self.classes))} different names, but model.num_classes is "
                             f"{self.model.num_classes}; expected a name for each class")
        if isinstance(self.unlisted_labels, int) and not 0 <= self.unlisted_labels < self.model.num_classes and (
                self.unlisted_labels != self.ignored):
            raise impossible("unlisted_labels", f"{self.unlisted_labels}, but the model has {self.model.num_classes} "
                             f"classes (0 .. {self.model.num_classes - 1}) and {self.ignored} is ignored")
        if self.unlisted_labels != "keep" and not self.label_map:
            raise impossible("unlisted_labels", f"{self.unlisted_labels}, but there is no label_map. Add one, or leave "
                             "unlisted_labels out")
        if self.held_out is not None and (self.held_out <= 0 or isinstance(self.held_out, float)
                                          and self.held_out >= 1):
            raise impossible("held_out", f"{self.held_out}; expected a share of the images above 0 and below 1 (0.2), "
                             "or how many (100)")
        return self

    def _ignored_labels(self) -> dict[str, int]:
        return _ignored_labels({"ignore_index": self.ignore_index, "loss": self.loss.model_dump(),
                                "train_dataset": self.train_dataset.model_dump(),
                                "val_dataset": self.val_dataset.model_dump()})

    @property
    def ignored(self) -> int:
        """The label of pixels without a class."""
        return next(iter(self._ignored_labels().values()), 255)

    @model_validator(mode="after")
    def _fits(self) -> SegmentConfig:
        options = self.lr_scheduler.options()
        total = options.get("total_iters", self.iters)
        if total != self.iters:
            raise impossible("lr_scheduler.total_iters", f"{total}, but the run has iters: {self.iters}; the rate "
                             "falls over the whole run, set both (--iters does)")
        backbone = self.model.backbone.options()
        if "image_size" in backbone:
            grid_of(backbone["image_size"], backbone.get("patch_size", 16), "model.backbone.image_size")
            self._check_sizes(pair(backbone["image_size"]))
        if self.run.early_stop_intervals and not self.run.do_eval:
            raise impossible("run.early_stop_intervals", "early stopping needs evaluations; add --do_eval")
        return self

    def _check_sizes(self, size: tuple[int, int]) -> None:
        """Position tables have one size: crops, padding and windows must be of it."""
        sizes = [(f"train_dataset.transforms[{i}].{key}", transform[key])
                 for i, transform in enumerate(self.train_dataset.options().get("transforms", []))
                 for key in ("crop_size", "size")
                 if key in transform and transform.get("type") in ("BEiTv2RandomCrop", "BEiTv2Pad")]
        if self.test_config.is_slide and self.test_config.crop_size is not None:
            sizes.append(("test_config.crop_size", self.test_config.crop_size[::-1]))  # (width, height), as PaddleSeg
        for key, value in sizes:
            if tuple(value) != size:
                raise impossible(key, f"{list(value)} (height, width), but model.backbone.image_size is {list(size)}; "
                                 "the relative position tables are made for one size, set both alike")

    def resolved(self) -> dict[str, Any]:
        """All settings as plain values, every default written out; `parse_config` reads it back unchanged."""
        return self.model_dump(mode="json")


def _ignored_labels(tree: Mapping[str, Any]) -> dict[str, int]:
    """{dotted key: ignored label} of every place of plain settings that sets one, the top's first."""
    top = {} if tree.get("ignore_index") is None else {"ignore_index": tree["ignore_index"]}
    return {**top, **dict(_settings_named(IGNORED_KEYS, {key: tree.get(key) for key in (
        "loss", "train_dataset", "val_dataset")}, ""))}


def _settings_named(names: Sequence[str], value: Any, where: str) -> Iterator[tuple[str, int]]:
    """(dotted key, value) of all settings of those names, at any depth."""
    inner = (value.items() if isinstance(value, Mapping) else
             ((f"[{i}]", item) for i, item in enumerate(value)) if isinstance(value, (list, tuple)) else ())
    for key, item in inner:
        place = f"{where}{key}" if not where or str(key).startswith("[") else f"{where}.{key}"
        if key in names and isinstance(item, int):
            yield place, item
        yield from _settings_named(names, item, place)


def read_names(path: str) -> list[str]:
    """The lines of a text file of class names, in any encoding that lists are read in; raises where it cannot be."""
    from beitv2_core.data.sources.lists import read_words

    try:
        return [text for _, text in read_words(path, what="classes")]
    except DataError as error:
        why = "it is no text" if Path(path).is_file() else "there is no such file"
        raise impossible("classes", f"{path}: cannot be read: {why}. Expected a text file with the name of a class a "
                         "line, or the names themselves: classes: [road, sky]") from error

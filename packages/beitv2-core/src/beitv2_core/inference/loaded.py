# SPDX-License-Identifier: Apache-2.0
"""One trained model with its preprocessing, whatever it was saved as.

Shape suffixes: B images, N patches, D width.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import numpy as np
from PIL import Image

from ..data import EvalTransform, Reading, Sample, decode
from ..data.sources.image_file import explain, to_rgb
from ..data.views.transforms import normalise
from ..errors import CheckpointError, ConfigError, DataError, ShapeError
from ..evaluation.codes import encode
from ..exported_model import Exported, is_exported, load_exported
from ..pixels.imagenet import IMAGENET_MEAN, IMAGENET_STD
from ..pixels.size import pair
from ..runners import PRECISIONS
from ..weights.preprocessor import own_preprocessing, preprocessor_config
from .answers import Answer, answer_of

#: what `LoadedModel.features` gives
WHATS = ("mean", "cls", "patches", "codes")
#: share of the short side that the crop keeps: of tokenizers, and of all others, as `beitv2 knn` and `export` cut
CROP_SHARES = {"tokenizer": 1.0}
CROP_SHARE = 0.875

Picture = Union[str, Path, Image.Image, np.ndarray]


class Cut(NamedTuple):
    """How images are read and cut.

    reading: of image files.  crop_share: of the short side that the central crop keeps; interpolation: of the resizing
    before it.
    """

    reading: Reading
    crop_share: float
    interpolation: str = "bicubic"


class LoadedModel:
    """A trained model in eval mode, and how it reads images (`load_model`).

    kind: "pretraining", "classifier", "backbone", "tokenizer" or another `Kind`'s name; of an exported model the kind
    of its description ("features", "tokenizer").  model: the Paddle model, or the `Exported`.  backbone: the trunk that
    images enter, None of an exported model.  image_size: (height, width) in pixels; grid: (rows, columns) of patches.
    runtime: what computes it; precision: in which numbers.  classes: names by number, None where there are none.
    """

    def __init__(self, source: str, model: Any, *, kind: str, cut: Cut, image_size: tuple[int, int],
                 grid: Optional[tuple[int, int]], backbone: Any = None, unit_range: bool = False,
                 runtime: str = "paddle", precision: str = "f32", classes: Optional[Sequence[str]] = None,
                 described: Any = None):
        self.source, self.model, self.kind, self.backbone = source, model, kind, backbone
        self.image_size, self._grid, self._unit_range = image_size, grid, unit_range
        self.reading, self.crop_share, self.interpolation = cut
        self.runtime, self.precision = runtime, precision
        self.classes = None if classes is None else list(classes)
        self._described = described
        self._fingerprint: Optional[str] = None
        self._answer: Optional[Answer] = None

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"LoadedModel({self.source!r}, {self.kind}, {height} x {width})"

    @property
    def exported(self) -> bool:
        """Whether a graph without the model's code computes it."""
        return isinstance(self.model, Exported)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of one image; ConfigError of an exported classifier, which does not tell it."""
        return self.model.grid if self._grid is None else self._grid

    def cut_to(self, crop_share: float) -> None:
        """Keep this share of the short side; ConfigError of a model that was exported for another one."""
        if self.exported and crop_share != self.crop_share:
            raise ConfigError(f"--crop-share {crop_share}: this model was exported for {self.crop_share}. Leave it "
                              "out.")
        self.crop_share = crop_share

    def fingerprint(self) -> str:
        """SHA-256 of all weights, or of the exported files: of equal ones features are equal."""
        if self._fingerprint is None:
            if self.exported:
                self._fingerprint = self.model.fingerprint()
            else:
                from ..assembly.restore import fingerprint

                self._fingerprint = fingerprint(self.model)
        return self._fingerprint

    def __call__(self, images: Union[Picture, Sequence[Picture]]) -> Any:
        """What a model of this kind says of images: as `preprocess` takes them, one or several.

        A tokenizer: codes int64 (B, rows, columns).  A classifier: logits, probabilities and the names of the classes.
        Other kinds: what the package that has them says.  A backbone: the mean patch feature float32 (B, D).
        Raises ConfigError for a kind that no installed package knows, and what `preprocess` raises.
        """
        with self._computing():
            return self._knows().answer(_several(images))

    def save_pretrained(self, folder: Union[str, Path]) -> str:
        """Write config.json, model.safetensors and preprocessor_config.json, from which `load` makes an equal model.

        README.md beside them is the model card, of the run where the model comes from one.

        transformers reads the folder too where its format holds all of the model; the format is returned:
        "huggingface" or "ours".  Files of an earlier one are replaced.  Raises ConfigError for an exported model, which
        is a folder already, CheckpointError where the folder cannot be written.
        """
        if self._described is None:
            raise ConfigError(f"{self.source}: an exported model cannot be saved again. Copy its folder, or load the "
                              "run it was exported from.")
        from ..assembly.cards import card_beside, write_saved_card
        from ..conversion.folder import write_model_folder

        found = self._described._replace(
            weights={name: tensor.numpy() for name, tensor in self.model.state_dict().items()},
            classes=None if self.classes is None else tuple(self.classes))
        mean, std = (None, None) if self._unit_range else (IMAGENET_MEAN, IMAGENET_STD)
        keep = {"exif_orientation": self.reading.upright, "features_crop_share": self.crop_share,
                "answer": self._knows().keep}
        known = preprocessor_config(self.image_size, crop_share=self.answer_crop_share,
                                    interpolation=self.interpolation, mean=mean, std=std, own=keep)
        form = write_model_folder(Path(folder), found, known)
        with card_beside(Path(folder)):
            write_saved_card(Path(folder), self.source, self.kind)
        return form

    @property
    def answer_crop_share(self) -> float:
        """Share of the short side that is kept when the model is called: as its run was validated."""
        if self.exported:
            return self.crop_share
        return self._known().crop_share

    def _knows(self) -> Answer:
        if self._answer is None:
            self._answer = answer_of(self, {} if self.exported else self._known().own.get("answer", {}))
        return self._answer

    def _known(self) -> Any:
        from ..assembly.preprocessing import preprocessing_of

        return preprocessing_of(self.source, self.kind, self.image_size)

    def preprocess(self, images: Union[Picture, Sequence[Picture]], *,
                   crop_share: Optional[float] = None) -> np.ndarray:
        """Central crops, float32 (B, 3, H, W) in [0, 1], of images of any size.

        images: one or several of: paths; PIL images of any mode; uint8 arrays (h, w, 3), (h, w) or (h, w, 4).
        Files are read as the model's run reads them.  crop_share: share of the short side that is kept; None: as
        features are cut.  Raises DataError for a file that is no image, ShapeError for
        another array.
        """
        cut = EvalTransform(self.image_size, crop_share=crop_share or self.crop_share,
                            interpolation=self.interpolation)
        rows = [cut(Sample(self.open(one), None, "")) for one in _several(images)]
        if not rows:
            raise ShapeError("preprocess: no images were given. Give at least one.")
        return cut.batch({"image": np.stack([row["image"] for row in rows]), "label": None, "path": []}).images

    def features(self, images: Union[Picture, Sequence[Picture]], *, what: str = "mean",
                 block: Optional[int] = None) -> np.ndarray:
        """Features of images, float32, or codes.

        images: as `preprocess` takes them, or what it gives: float32 (B, 3, H, W) in [0, 1].
        what: "mean" of the patch tokens (B, D); "cls", the class token (B, D); "patches" (B, N, D), row by row;
        "codes" of a tokenizer (B, N), int64.  Of a tokenizer the others are those of its encoder.
        block: after which block, from 1 (always raw tokens); None: after the last, as the official downstream code
        reads it: raw tokens of a pretrained model, whose final norm belongs to its code classifier (`beitv2 knn`
        measures them so too); of a fine-tuned model with mean pooling `fc_norm` of the mean, and of the patches; with
        the class token, its final norm.  An exported model gives what its graph has: mean and patches after the norm.
        Raises ConfigError for what the model does not have, ShapeError for a block that is not there and for images of
        another size.
        """
        self.check(what, block)
        batch = self._checked(images)
        with self._computing():
            if what == "codes":
                return encode(self.model, batch)
            if self.exported:
                return np.asarray(self.model.run(batch)[what], dtype=np.float32)
            return self._live_features(batch, what, block)

    def check(self, what: str, block: Optional[int] = None) -> None:
        """Raise what `features` would raise for these, before any image is read."""
        from_tokenizer = self.kind == "tokenizer"
        if what not in WHATS:
            raise ConfigError(f"what is {what!r}; expected one of {', '.join(WHATS)}.")
        if what == "codes" and not from_tokenizer:
            raise ConfigError(f"{self.source}: a {self.kind} model has no codes. Give a tokenizer, or another --what "
                              f"({', '.join(one for one in WHATS if one != 'codes')}).")
        if what == "codes" and block is not None:
            raise ConfigError(f"--block {block}: codes come from the last block. Leave it out.")
        if self.exported:
            outputs = self.model.description.outputs
            if block is not None:
                raise ConfigError(f"{self.source}: --block {block}: an exported model gives its last block's features. "
                                  "Leave it out, or give the run.")
            if what not in outputs:
                raise ConfigError(f"{self.source}: --what {what}: this exported {self.kind} gives {', '.join(outputs)}."
                                  " Export features: beitv2 export RUN --kind features.")
        elif block is not None and not 1 <= block <= self.backbone.depth:
            raise ShapeError(f"{self.source}: --block {block}: this model has the blocks 1 .. {self.backbone.depth}.")

    def attention(self, images: Union[Picture, Sequence[Picture]], *, block: Optional[int] = None) -> np.ndarray:
        """The class token's attention to every patch, float32 (B, heads, rows, columns), of a live model.

        images: as `features` takes them; block: which block's, from 1; None: the last one's.  A map sums to what the
        class token does not give to itself.
        Raises ConfigError of an exported model, ShapeError for a block that is not there and for other images.
        """
        if self.exported:
            raise ConfigError(f"{self.source}: an exported model gives no attention. Give the run.")
        batch = self._checked(images)
        import paddle

        from ..evaluation.attention import class_attention

        with self._computing(), paddle.no_grad():
            return class_attention(self.backbone, self._entering(batch), block)

    def _live_features(self, images: np.ndarray, what: str, block: Optional[int]) -> np.ndarray:
        import paddle

        from ..models.features import block_tokens, feature_of

        with paddle.no_grad():
            tokens_BTD = block_tokens(self.backbone, self._entering(images), block)
            return feature_of(self.backbone, tokens_BTD, what, normalised=None if block is None else False).numpy()

    def _checked(self, images: Union[Picture, Sequence[Picture]]) -> np.ndarray:
        """Images as `preprocess` gives them; ShapeError for arrays of another size."""
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            images = self.preprocess(images)
        if images.ndim != 4 or images.shape[1:] != (3, *self.image_size):
            raise ShapeError(f"{self.source}: images have shape {images.shape}; expected (images, 3, "
                             f"{self.image_size[0]}, {self.image_size[1]}).")
        return images

    def _entering(self, images: np.ndarray) -> Any:
        """The tensor that enters the trunk."""
        import paddle

        if self._unit_range:
            return self.model.preprocess(paddle.to_tensor(images))
        return paddle.to_tensor(normalise(images))

    def _computing(self) -> Any:
        if self.exported or self.precision == "f32":
            return contextlib.nullcontext()
        from ..layers.fast.products import mixed_precision

        return mixed_precision(self.precision)

    def open(self, image: Picture) -> Image.Image:
        """An RGB image of its own size: of a path, of a PIL image of any mode, or of a uint8 array.

        Raises DataError for a file that is no image, ShapeError for another array.
        """
        if isinstance(image, (str, Path)):
            try:
                return decode(image, upright=self.reading.upright, max_pixels=self.reading.max_pixels)
            except Exception as error:  # decoders raise anything on broken input
                raise explain(image, error) from error
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.ndim == 3 and image.shape[2] not in (3, 4):
                raise ShapeError(f"an image is an array of {image.dtype}, shape {image.shape}; expected uint8 (height, "
                                 "width, 3).")
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image):
            raise DataError(f"an image is a {type(image).__name__}; expected a path, a PIL image or a uint8 array.")
        return to_rgb(image)


def _several(images: Union[Picture, Sequence[Picture]]) -> list[Any]:
    single = isinstance(images, (str, Path, Image.Image)) or isinstance(images, np.ndarray) and images.ndim < 4
    return [images] if single else list(images)  # type: ignore[arg-type]


def load_model(source: Union[str, Path], *, name: Optional[str] = None, runtime: Optional[str] = None,
               precision: str = "f32", image_size: Union[int, Sequence[int], None] = None) -> LoadedModel:
    """The trained model of a source, in eval mode, with how it reads images.

    source: a run folder or one of its checkpoints, a file or URL of weights in any known format, a folder of
    transformers, an exported model, or a name that `beitv2 models` lists and `beitv2 download` has fetched.
    name: the published tokenizer that a file must be.  runtime: of an exported model.  precision: "f32", "bf16" on
    processors that multiply bfloat16 numbers, "int8" of models exported with it.  image_size: pixels, one number or
    (height, width), default those it was made for; position tables are resized as the official code does.
    Raises CheckpointError for what is missing, damaged or has no backbone, ConfigError for options that do not go with
    the source.
    """
    source = str(source)
    size = None if image_size is None else pair(image_size)  # type: ignore[arg-type]
    if is_exported(source):
        return _exported(source, name, runtime, precision, size)
    check_live(source, runtime=runtime, precision=precision)
    from ..assembly.at_size import load_at_size
    from ..assembly.held_out import reading_of_run
    from ..runtime import require_paddle

    require_paddle()
    found = load_at_size(_place_of(source), image_size=size, name=name)
    own = own_preprocessing(found.path) if found.path.is_dir() else {}
    reading = reading_of_run(str(found.path))
    if "exif_orientation" in own:
        reading = reading._replace(upright=bool(own["exif_orientation"]))
    cut = Cut(reading, own.get("features_crop_share", CROP_SHARES.get(found.kind.name, CROP_SHARE)),
              own.get("interpolation", "bicubic"))
    loaded = LoadedModel(str(found.path), found.model, kind=found.kind.name, cut=cut, image_size=found.trunk.image_size,
                         grid=found.trunk.grid, backbone=found.trunk, unit_range=found.kind.unit_range,
                         precision=precision, classes=found.found.classes, described=found.found)
    with loaded._computing():  # says now whether this device computes in that precision
        return loaded


def check_live(source: str, *, runtime: Optional[str], precision: str) -> None:
    """Raise ConfigError for a runtime, or a precision, that only exported models have."""
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}.")
    if runtime is not None or precision == "int8":
        asked = f"--runtime {runtime}" if runtime is not None else f"--precision {precision}"
        raise ConfigError(f"{asked}: {source} is no exported model. Export it first: beitv2 export {source} --format "
                          f"onnx{'' if precision != 'int8' else ' --quantize int8 --calibrate FOLDER'}")


def _exported(source: str, name: Optional[str], runtime: Optional[str], precision: str,
              size: Optional[tuple[int, int]]) -> LoadedModel:
    model = load_exported(source, runtime=runtime, precision=precision)
    if name is not None:
        raise ConfigError(f"{source}: --name {name}: an exported model is described by its model.json. Leave it out.")
    if size is not None and size != model.image_size:
        raise ConfigError(f"{source}: --image-size {size[0]} {size[1]}: this model was exported for images of "
                          f"{model.image_size[0]} x {model.image_size[1]} pixels. Leave it out, or give the run.")
    known = model.description
    return LoadedModel(source, model, kind=model.kind, cut=Cut(model.reading, known.crop_share, known.interpolation),
                       image_size=model.image_size, grid=known.grid, runtime=model.runtime, precision=model.precision,
                       classes=known.classes)


def _place_of(source: str) -> str:
    """A path or URL as it is; of a published model's name, the file in the cache folder."""
    if "://" in source or Path(source).exists():
        return source
    from ..weights.published.download import downloaded
    from ..weights.published.registry import published_models

    models = published_models()
    if source in models:
        path = downloaded(models[source])
        if path is None:
            raise CheckpointError(f"{source}: this published model has not been downloaded. Type: "
                                  f"beitv2 download {source}")
        return str(path)
    near = difflib.get_close_matches(source, models, 1, 0.8)
    if near:
        raise CheckpointError(f"{source}: no such run, checkpoint or file, and no published model. Did you mean "
                              f"{near[0]}?")
    return source

# SPDX-License-Identifier: Apache-2.0
"""The trunk's settings of a run or a file of weights, which complete the settings of a model that starts from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config.sections import SIZES
from ..errors import CheckpointError, ConfigError
from ..pixels.size import pair
from .kinds import find_kind, kinds_that_start_others
from .loaded_weights import Hints, read_checkpoint, read_model

_SIZE_KEYS = ("width", "depth", "num_heads")


class Trunk(NamedTuple):
    """The trunk of a run or a file of weights.

    options: keyword arguments of `BEiTBackbone`, as `weights.architecture` describes them.  settings: the same under
    the names of `config.TrunkConfig`; a table shared by all blocks is `positions: relative` there, because loading
    copies it into every block.  image_size: (height, width) in pixels that its position terms are made for, None where
    it has none.  trained: the source is a run, whose settings have what weights do not tell (norm_eps, the start
    of layer scale).  classes: names of the classes, where they are known.
    """

    source: str
    kind: str
    options: dict[str, Any]
    settings: dict[str, Any]
    image_size: tuple[int, int] | None
    trained: bool
    classes: tuple[str, ...] | None

    def fill(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Settings of a trunk (`config.TrunkConfig` names): `given`, and the source's for what it leaves out.

        given: what the user wrote; a key with the value None counts as left out, but for init_values.  where: beginning
        of the keys in messages, for example "model.".  Raises ConfigError naming the key and both values where a given
        one contradicts the source.
        """
        return self._fill(given, self.settings, where)

    def fill_options(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """As `fill`, under the names of `BEiTBackbone`'s keyword arguments (use_rel_pos_bias, ...)."""
        options = {**self.options, "patch_size": self.settings["patch_size"]}
        if options["use_shared_rel_pos_bias"] and not given.get("use_shared_rel_pos_bias"):
            options.update(use_shared_rel_pos_bias=False, use_rel_pos_bias=True)
        return self._fill(given, {name: value for name, value in options.items() if name in _OPTIONS}, where)

    def check_image_size(self, given: Any, where: str) -> tuple[int, int]:
        """The size (height, width) the source was made for; ConfigError where `given` (None: not given) is another.

        A source without position terms takes any size, and without one given its settings' or the published 224.
        """
        if self.image_size is None:
            return (224, 224) if given is None else pair(given)
        if given is not None and pair(given) != self.image_size:
            own = _shown(list(self.image_size))
            raise ConfigError(f"{where}: it is {_shown(given)}, but {self.source} was made for images of {own} "
                              "pixels. Remove the setting: the size is read from there.")
        return self.image_size

    def _fill(self, given: Mapping[str, Any], own: Mapping[str, Any], where: str) -> dict[str, Any]:
        written = {name: value for name, value in given.items() if value is not None or name == "init_values"}
        size = SIZES.get(written.get("size", ""))
        asked = {**dict(zip(_SIZE_KEYS, size or ())), **written}
        for name, value in own.items():
            if name in asked and not self._agree(name, asked[name], value):
                key = name if name in written else "size"
                came = f"{written[key]!r}" + ("" if key == name else f" (a {name} of {asked[name]})")
                raise ConfigError(
                    f"{where}{key}: it is {came}, but {self.source} has {name} {_shown(value)}. Remove the setting, "
                    "which is then taken from there, or give other weights.")
        return {**{name: value for name, value in own.items() if name not in asked}, **written}

    def _agree(self, name: str, asked: Any, own: Any) -> bool:
        if name == "patch_size":
            return pair(asked) == pair(own)
        if name == "mlp_ratio":
            width = self.options["width"]
            return int(width * asked) == int(width * own)
        if name == "init_values":  # what it started from is overwritten; whether there is one is not
            return bool(asked) == bool(own)
        if name == "positions" and self.options["use_shared_rel_pos_bias"]:
            return asked in ("relative", "shared_relative")
        return asked == own


_OPTIONS = ("patch_size", "width", "depth", "num_heads", "mlp_ratio", "qkv_bias", "init_values", "norm_eps",
            "use_abs_pos_emb", "use_rel_pos_bias", "use_shared_rel_pos_bias", "attn_head_dim")


def architecture_of(source: str | Path, *, sha256: str | None = None, hints: Hints | None = None) -> Trunk:
    """The trunk of a run folder, a .pdckpt, or a file of weights in any known format.

    hints: values that a file does not tell.  Raises CheckpointError for a source that cannot be read, is not recognised
    or has no trunk for images (a tokenizer, a teacher).
    """
    path: str | Path = source
    if "://" in str(source) or sha256 is not None or not Path(source).exists():  # fetched, checked, or missed by name
        path = read_checkpoint(str(source), sha256=sha256, wanted=("pretraining", "classifier"), hints=hints).path
    found = read_model(path, hints)
    kind = find_kind(found.kind)
    if kind.backbone is None:
        raise CheckpointError(f"{source}: this is {kind}; a {' or '.join(kinds_that_start_others())} one was expected. "
                              "Give the backbone's run or file.")
    options = dict(kind.trunk_of(found.architecture))
    tables = any(options[name] for name in ("use_abs_pos_emb", "use_rel_pos_bias", "use_shared_rel_pos_bias"))
    positions = ("absolute" if options["use_abs_pos_emb"] else "relative" if tables else "none")
    settings = {name: options[name] for name in ("width", "depth", "num_heads", "patch_size", "mlp_ratio", "qkv_bias",
                                                 "init_values", "norm_eps")}
    settings["patch_size"] = _shown(settings["patch_size"])
    settings["positions"] = positions
    if not found.trained and not found.converted:
        options.pop("norm_eps"), settings.pop("norm_eps")
    settings = {name: value for name, value in settings.items() if value is not None or name == "init_values"}
    options = {name: value for name, value in options.items() if value is not None or name == "init_values"}
    height, width = options["image_size"]
    known = (height, width) if tables or found.trained else None
    return Trunk(str(source), found.kind, options, settings, known, found.trained, found.classes)


def _shown(value: Any) -> Any:
    """A size of equal sides as one number, as it is written in settings."""
    return value[0] if isinstance(value, (list, tuple)) and len(set(value)) == 1 else value

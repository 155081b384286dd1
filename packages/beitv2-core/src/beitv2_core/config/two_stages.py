# SPDX-License-Identifier: Apache-2.0
"""A run of both stages: what `beitv2 pretrain IMAGES` chooses, writes down and reads again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Optional

from pydantic import Field, model_validator

from ..datasets import SOURCES
from .schema import PretrainConfig, TokenizerConfig
from .sections import Section, impossible

#: the stages of a run, in order: names of its settings and of its folders
STAGES = ("tokenizer", "pretrain")


class ChosenConfig(Section):
    """What the settings were chosen for. Kept for reading, and compared when the same command is typed again."""

    images: str = Field(description="the images that were given")
    minutes: float = Field(gt=0, description="time that was given for the whole run")
    overrides: list[str] = Field(default_factory=list, description="settings that were given by --set")
    reasons: dict[str, str] = Field(default_factory=dict, description="setting -> why it is what it is")
    seconds_per_step: dict[str, float] = Field(default_factory=dict, description="stage -> the rate that was measured")


class ReportConfig(Section):
    """The report at the end, on images that were held out of both trainings."""

    images: int = Field(default=1000, ge=1, description="most images to measure on")


class TwoStagesConfig(Section):
    """Everything that decides a run of both stages: a tokenizer and the backbone that predicts its codes.

    The stages' folders are `output`/tokenizer and `output`/pretrain, and the backbone reads that tokenizer: these three
    settings follow from `output`.
    """

    kind: Literal["two_stages"] = Field(default="two_stages", description="which command reads this file")
    output: str = Field(description="run folder of both stages")
    tokenizer: TokenizerConfig
    pretrain: PretrainConfig
    report: ReportConfig = ReportConfig()
    chosen: Optional[ChosenConfig] = Field(default=None, description="what the settings were chosen for; null: by hand")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_output(cls, values: Any) -> Any:
        """Complete the settings that follow from `output`, and refuse others in their place."""
        if not isinstance(values, dict) or not isinstance(values.get("output"), str):
            return values
        filled = dict(values)
        for path, folder in _following(values["output"]):
            stage = filled.get(path[0])
            if not isinstance(stage, dict):
                return values
            filled[path[0]] = _with(stage, path[1:], folder, ".".join(path))
        return filled

    @model_validator(mode="after")
    def _stages_fit(self) -> TwoStagesConfig:
        codes, model = self.tokenizer, self.pretrain
        if codes.grid != model.grid:
            raise impossible("pretrain.model.patch_size", f"the tokenizer cuts an image into {codes.grid} patches, the "
                             f"backbone into {model.grid}; both must be the same")
        for name, stage in zip(STAGES, (codes, model)):
            if not SOURCES[stage.data.dataset].split and stage.data.held_out is None:
                raise impossible(f"{name}.data.held_out", "null came, but the report at the end measures on images "
                                 "that are left out of both trainings. Set it, to the same number in both stages")
        return self

    def resolved(self) -> dict[str, Any]:
        """All settings as plain values without those that follow from `output`: `output` alone moves a run."""
        tree = self.model_dump(mode="json")
        for path, _ in _following(self.output):
            section = tree
            for key in path[:-1]:
                section = section[key]
            del section[path[-1]]
        return tree


def _following(output: str) -> list[tuple[tuple[str, ...], str]]:
    """(key, value) of the settings that follow from `output`."""
    first, second = (str(Path(output) / stage) for stage in STAGES)
    return [(("tokenizer", "output"), first), (("pretrain", "output"), second),
            (("pretrain", "tokenizer", "weights"), first)]


def _with(section: dict[str, Any], path: tuple[str, ...], value: str, dotted: str) -> dict[str, Any]:
    key, below = path[0], path[1:]
    if below:
        inner = section.get(key, {})
        return {**section, key: _with(inner, below, value, dotted)} if isinstance(inner, dict) else section
    if section.get(key, value) != value:
        raise impossible(dotted, f"{section[key]!r} came; it follows from output and is {value!r}. Leave it out")
    return {**section, key: value}

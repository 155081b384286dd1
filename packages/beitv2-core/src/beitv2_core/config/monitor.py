# SPDX-License-Identifier: Apache-2.0
"""The settings of what is measured while a backbone is pretrained."""

from __future__ import annotations

from typing import Any, Literal, Optional, Union

from pydantic import Field, PositiveInt, model_validator

from .sections import Section


class MonitorConfig(Section):
    """Measurements of the features while they are pretrained, without labels; they change nothing. Off by default."""

    every: Optional[Union[PositiveInt, Literal["auto"]]] = Field(
        default=None,
        description="steps between two measurements; auto: so many that they cost at most 2 % of the run; null: none "
        "(with labelled images: auto)",
    )
    images: int = Field(
        default=512, gt=7, description="most held-out images that are measured (data.held_out; dataset: digit_scenes: "
        "drawn test images)"
    )
    labelled: Optional[str] = Field(
        default=None, description="class folders (or tar files with labels) whose nearest neighbours are counted too"
    )

    @model_validator(mode="before")
    @classmethod
    def _labels_ask_for_it(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("labelled") is not None and values.get("every") is None:
            return {**values, "every": "auto"}
        return values

# SPDX-License-Identifier: Apache-2.0
"""Model cards: README.md in the form that Hugging Face reads, made of the files of a run.

A card says what is known and nothing else: data, settings, measured values, limits.  The licence of the weights is the
user's to name (`beitv2 card`); until then it is `unknown`.
Source: Mitchell et al., Model Cards for Model Reporting (arXiv 1810.03993); the keys of the head are those of Hugging
Face's model card metadata.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import yaml

from beitv2_core.errors import ConfigError
from beitv2_core.files.atomic import write_text_atomically
from beitv2_core.weights.kind import CardFacts, DataName
from beitv2_core.yaml_text import parse_yaml

CARD = "README.md"
#: a page that lacks it was written by somebody: it is left alone
MARK = "<!-- Written by beitv2 from the files of the run. `beitv2 card` changes the head; remove this line to edit. -->"
UNKNOWN = "unknown"
#: what the user gives, in the head of the card
GIVEN = ("license", "license_name", "license_link", "datasets", "language")
_TAGS = ("beit-v2", "vision-transformer", "paddlepaddle")
#: settings whose values name files of the user's machine
_PATHS = ("~", "/")


class Story(NamedTuple):
    """What a card tells.

    name: of the model.  facts: of its kind.  config: the settings.  summary: of the run, {} of a lone file.
    environment: versions and device of the run.  results: further (what, value, of what); notes: sentences below them.
    origins: a sentence for each model that the run read.
    """

    name: str
    facts: CardFacts
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    environment: Mapping[str, Any]
    results: Sequence[tuple[str, str, str]] = ()
    notes: Sequence[str] = ()
    origins: Sequence[str] = ()


def write_card(folder: Path, story: Story, given: Optional[Mapping[str, Any]] = None) -> Optional[Path]:
    """Write the card into a folder; None where there is a README.md that somebody else wrote, which stays.

    given: entries of the head (`GIVEN`); those of the card that is there are kept, but for what they say of another
    licence.  Raises ConfigError where the head of that card cannot be read, OSError where none can be written.
    """
    path, kept = folder / CARD, {}
    if path.exists():
        text = path.read_text(encoding="utf-8", errors="replace")
        if MARK not in text:
            return None
        kept = {key: value for key, value in head_of(text, path).items() if key in GIVEN}
        if "license" in (given or {}):  # name and address are those of the licence before
            kept = {key: value for key, value in kept.items() if not key.startswith("license")}
    write_text_atomically(path, render(story, {**kept, **(given or {})}))
    return path


def head_of(text: str, path: Union[str, Path] = CARD) -> dict[str, Any]:
    """The YAML head of a card; ConfigError naming `path` where it cannot be read."""
    parts = text.split("---\n", 2)
    try:
        found = parse_yaml(parts[1]) if len(parts) == 3 and not parts[0] else None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: its head is no YAML: {error}. Correct it, or remove the file.") from None
    return found if isinstance(found, dict) else {}


def render(story: Story, given: Mapping[str, Any]) -> str:
    """The text of a card."""
    facts, final = story.facts, story.summary.get("final") or {}
    head: dict[str, Any] = {"license": UNKNOWN, **given, "library_name": "beitv2-core"}
    if facts.tag:
        head["pipeline_tag"] = facts.tag
    head["tags"] = [*_TAGS, *facts.tags]
    measured = [(kind, name, float(final[key])) for key, (kind, name) in facts.metrics.items()
                if isinstance(final.get(key), numbers.Real) and math.isfinite(final[key])]  # numpy's are no YAML
    on = facts.measured_on(story.config) if measured else None
    if measured and on is not None:
        head["metrics"] = list(dict.fromkeys(kind for kind, _, _ in measured))
        head["model-index"] = [{"name": story.name, "results": [{
            "task": {"type": facts.tag}, "dataset": {"name": on.name, "type": on.type},
            "metrics": [{"type": kind, "name": name, "value": value} for kind, name, value in measured]}]}]
    body = [f"# {story.name}", MARK, facts.what, *_use(), *_data(story), *_training(story),
            *_results(story, measured, on), *_limits(story), *_licence(head), *_settings(story)]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n" + "\n\n".join(body) + "\n"


def _use() -> list[str]:
    return ["## Use", "```python\nimport beitv2_core as beitv2\n\nmodel = beitv2.load(\"FOLDER\")  # this folder\n"
            "print(model(\"image.jpg\"))\n```"]


def _data(story: Story) -> list[str]:
    trained = story.facts.trained_on(story.config)
    if trained is None:
        return ["## Data", "Not known: the card was written from a file of weights alone."]
    count = story.summary.get("images")
    lines = [f"Trained on {trained.words}" + (f": {count:,} images." if count else ".")]
    return ["## Data", *lines, *(["\n".join(f"- {line}" for line in story.origins)] if story.origins else [])]


def _training(story: Story) -> list[str]:
    summary, environment = story.summary, story.environment
    rows: list[tuple[str, Any]] = []
    if summary:
        rows += [("updates", summary.get("steps")), ("seconds of the last start", summary.get("seconds"))]
        rows += [(f"at the end: {key}", value) for key, value in (summary.get("last") or {}).items()
                 if key == "loss" or key.startswith(("perplexity", "usage"))]
    rows += [("device", environment.get("device")), ("processes", environment.get("processes")),
             ("Python", environment.get("python")), *environment.get("versions", {}).items()]
    known = [f"| {what} | {_number(value)} |" for what, value in rows if value is not None]
    return ["## Training", "\n".join(["| what | value |", "|---|---|", *known])] if known else []


def _results(story: Story, measured: Sequence[tuple[str, str, float]], on: Optional[DataName]) -> list[str]:
    rows = [(name, _number(value), "" if on is None else on.words) for _, name, value in measured]
    rows += list(story.results)
    lines = [f"| {what} | {value} | {where} |" for what, value, where in rows]
    table = ["\n".join(["| what | value | on |", "|---|---|---|", *lines])] if lines else ["Nothing was measured."]
    return ["## Results", *table, *story.notes]


def _limits(story: Story) -> list[str]:
    general = "Only what the table above names was measured: no other images, no bias, no safety of any use."
    return ["## Limits", "\n".join(f"- {line}" for line in (*story.facts.limits, general))]


def _licence(head: Mapping[str, Any]) -> list[str]:
    if head["license"] == UNKNOWN:
        return ["## Licence", "Of these weights: unknown; whoever made them did not name one. The images and the "
                "weights they were trained from may have licences of their own. The code is under Apache-2.0."]
    return ["## Licence", f"Of these weights: {head.get('license_name') or head['license']}. The code is under "
            "Apache-2.0."]


def _settings(story: Story) -> list[str]:
    if not story.config:
        return []
    text = yaml.safe_dump(without_folders(story.config), sort_keys=False, width=110, allow_unicode=True)
    return ["## Settings", "All of them; of absolute paths only the last part.", f"```yaml\n{text}```"]


def without_folders(value: Any) -> Any:
    """Settings with the last part of every absolute path: a card is published, the folders of a machine are not."""
    if isinstance(value, Mapping):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(one) for one in value]
    if isinstance(value, str) and value.startswith(_PATHS):
        return Path(value).name
    return value


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

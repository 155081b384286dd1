# SPDX-License-Identifier: Apache-2.0
"""Read settings: YAML with `_base_`, then `--set key=value`, then one frozen pydantic model.

`_base_` is PaddleSeg's grammar: a path or a list of paths relative to the file; the child wins, dictionaries merge,
lists are replaced, `_inherited_: false` inside a dictionary drops what its bases say.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import yaml
from pydantic import BaseModel, ValidationError

from .. import __version__, _entry_points
from ..errors import BEiTError, ConfigError
from ..yaml_text import MAX_YAML, parse_yaml
from .schema import PretrainConfig, TokenizerConfig
from .two_stages import TwoStagesConfig
from .unread import KIND_KEYS, unread_settings

Sources = dict[str, str]  # dotted key -> the file (or the option, "--set", or "default") its value comes from
ENTRY_POINTS = "beitv2.configs"
MOST_FILES = 1000  # a file and all it names by `_base_`; two that name the next one twice each would be 4, 8, 16, ...
OURS: dict[str, type[BaseModel]] = {"tokenizer": TokenizerConfig, "pretrain": PretrainConfig,
                                    "two_stages": TwoStagesConfig}


class ExplainedConfig(NamedTuple):
    """Settings, the source of each value that is no default, and the required texts that are missing ("?" there)."""

    settings: Any
    sources: Sources
    missing: list[str]


class MissingValueError(ConfigError):
    """Only values without a safe default are missing; `keys` names them."""

    def __init__(self, message: str, keys: Sequence[str]) -> None:
        super().__init__(message)
        self.keys = list(keys)


class _Loader(yaml.SafeLoader):
    """PyYAML that reads 1e-6 as a number (YAML 1.2) and refuses a key given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def config_kinds() -> dict[str, type[BaseModel]]:
    """The schema of each `kind:`; other packages add theirs by the entry points 'beitv2.configs'."""
    return _entry_points.load_all(ENTRY_POINTS, OURS)


def load_config(
    path: Union[str, Path], overrides: Sequence[str] = (), schema: Optional[type[BaseModel]] = None
) -> Any:
    """Read a YAML file with its bases and overrides into frozen settings.

    overrides: `a.b=c`, the value parsed as YAML.  schema: expected model; default: chosen by the file's `kind`.
    Raises ConfigError naming file, dotted key and what was expected.
    """
    return _load(path, overrides, schema)[0]


def explain_config(
    path: Union[str, Path], overrides: Sequence[str] = (), schema: Optional[type[BaseModel]] = None
) -> ExplainedConfig:
    """`load_config` with the source of each value; required texts (folders, files) may be missing and become "?".

    For commands that show or plan a run before its data is there.  Raises ConfigError as `load_config`, also for a
    missing value that is no text.
    """
    try:
        return ExplainedConfig(*_load(path, overrides, schema), [])
    except MissingValueError as error:
        filled = [*overrides, *(f"{key}='?'" for key in error.keys)]
        try:
            return ExplainedConfig(*_load(path, filled, schema), error.keys)
        except ConfigError:
            raise error from None


def _load(path: Union[str, Path], overrides: Sequence[str], schema: Optional[type[BaseModel]]) -> tuple[Any, Sources]:
    tree, sources = read_tree(Path(path))
    merge_overrides(tree, overrides, sources)
    return parse_config(tree, schema=schema, source=str(path), sources=sources), sources


def kind_of(tree: Mapping[str, Any]) -> Optional[str]:
    """The kind of plain settings: their `kind`, or else the one schema that has all their keys; None for none."""
    if "kind" in tree:
        return str(tree["kind"])
    fitting = [name for name, schema in config_kinds().items() if tree and set(tree) <= set(schema.model_fields)]
    return fitting[0] if len(fitting) == 1 else None


def merge_overrides(tree: dict[str, Any], overrides: Sequence[str], sources: Optional[Sources] = None, *,
                    option: str = "--set") -> None:
    """Lay `a.b=c` texts (values parsed as YAML) over plain settings, in place; ConfigError names one that is none.

    option: what the user typed before them, for messages.
    """
    for text in overrides:
        _merge(tree, _parse_override(text, option), option, {} if sources is None else sources, "")


def parse_config(
    tree: Mapping[str, Any],
    schema: Optional[type[BaseModel]] = None,
    source: str = "config",
    sources: Optional[Sources] = None,
    written_by: Optional[str] = None,
) -> Any:
    """Turn plain values (a YAML tree, the config inside a checkpoint) into frozen settings or say what is wrong.

    written_by: the version of beitv2-core that saved them ("": not known), for keys that only a newer one has; None for
    what people write.
    """
    kinds = config_kinds()
    if schema is None:
        kind = kind_of(tree)
        if kind is None:
            raise ConfigError(f"{source}: kind: is missing. Expected one of: {', '.join(kinds)}.")
        schema = _entry_points.load(ENTRY_POINTS, kind, kinds, f"{source}: kind")
    elif tree.get("kind") in kinds and kinds[tree["kind"]] is not schema:
        wanted = next((name for name, model in kinds.items() if model is schema), schema.__name__)
        raise ConfigError(f"{source}: this is a {tree['kind']!r} config, a {wanted!r} config was expected.")
    try:
        return schema.model_validate(_without_inherited(tree, source, sources or {}))
    except ValidationError as error:
        raise _explain(error, schema, source, sources or {}, written_by) from None


def _without_inherited(tree: Mapping[str, Any], source: str, sources: Sources) -> dict[str, Any]:
    """The settings without those that a `_base_` gives for a kind (data.dataset, mask.kind) that was replaced since.

    What was set together with the kind, or after it, stays, and is refused where the kind does not read it.
    """
    def rank(key: str) -> int:
        origin = source_of(key, sources)
        return 2 if (origin or "").startswith("--") else 1 if origin == source else 0

    kept = dict(tree)
    for section, kind_key in KIND_KEYS.items():
        values, chosen = tree.get(section), f"{section}.{kind_key}"
        if not isinstance(values, Mapping) or chosen not in sources:
            continue
        inherited = {key for key in unread_settings(section, str(values.get(kind_key)))
                     if key in values and source_of(f"{section}.{key}", sources) != sources[chosen]
                     and rank(f"{section}.{key}") <= rank(chosen)}
        kept[section] = {key: value for key, value in values.items() if key not in inherited}
    return kept


def read_tree(path: Path, _chain: tuple[Path, ...] = (),
              _files: Optional[list[Path]] = None) -> tuple[dict[str, Any], Sources]:
    """Read one YAML file and everything below its `_base_` into plain values and their sources."""
    files = [] if _files is None else _files
    files.append(path)
    asked = f" (named by _base_ in {_chain[-1]})" if _chain else ""
    if len(files) > MOST_FILES:
        raise ConfigError(f"{path}: the file before the {MOST_FILES:,}th that {files[0]} leads to by _base_{asked}. "
                          "Name each base once.")
    try:
        if path.resolve() in _chain:
            raise ConfigError(f"{path}: _base_ leads back to this file: {' -> '.join(p.name for p in _chain)}.")
        if _chain and path.exists() and not path.is_file():  # a pipe or a device may never end
            raise OSError("it is no file")
        with open(path, encoding="utf-8") as file:
            content = parse_yaml(file.read(MAX_YAML + 1), _Loader)
    except (OSError, ValueError, RuntimeError) as error:  # also a name no file can have, links in a circle
        if isinstance(error, BEiTError):
            raise
        remedy = ("Save it as UTF-8" if isinstance(error, UnicodeDecodeError) else
                  "Give a YAML file of settings; configs/ has one for every recipe")
        raise ConfigError(f"{path}: cannot be read{asked}: {error}. {remedy}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML{asked}: {' '.join(str(error).split())}.") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines{asked}, found a {type(content).__name__}.")
    bases = content.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: _base_: expected a path or a list of paths, found {bases!r}.")
    tree: dict[str, Any] = {}
    sources: Sources = {}
    for base in bases:
        below = Path(os.path.normpath(path.parent / base))
        base_tree, base_sources = read_tree(below, (*_chain, path.resolve()), files)
        _merge(tree, base_tree, base_sources, sources, "")
    _merge(tree, content, str(path), sources, "")
    return tree, sources


def _merge(tree: dict[str, Any], child: Mapping[str, Any], origin: Any, sources: Sources, prefix: str) -> None:
    """Lay `child` over `tree` in place; `origin` is one source for all of it or a map of sources."""
    if child.get("_inherited_", True) is False:
        tree.clear()
        for key in [key for key in sources if key.startswith(prefix)]:
            del sources[key]
    for key, value in child.items():
        if key == "_inherited_":
            continue
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key)  # {11: 255} maps numbers
        if not isinstance(key, str):
            raise ConfigError(f"{origin}: {prefix}{key}: a key must be text, found a {type(key).__name__}.")
        dotted = prefix + key
        if isinstance(value, dict):
            below = tree[key] if isinstance(tree.get(key), dict) else {}
            tree[key] = below
            sources.pop(dotted, None)
            _merge(below, value, origin, sources, dotted + ".")
        else:
            for old in [old for old in sources if old.startswith(dotted + ".")]:
                del sources[old]
            tree[key] = value
            sources[dotted] = origin if isinstance(origin, str) else origin.get(dotted, "")


def _parse_override(text: str, option: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{option} {text}: expected key=value with a dotted key: {option} SECTION.KEY=VALUE.")
    try:
        value = parse_yaml(raw, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{option} {text}: the value is not valid YAML: {' '.join(str(error).split())}.") from None
    for part in reversed(parts):
        value = {part: value}
    return value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested settings; an empty dictionary counts as a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def source_of(dotted: str, sources: Sources) -> Optional[str]:
    """The file that set a key, or set something below or above it; None when it is a default."""
    if dotted in sources:
        return sources[dotted]
    for key, origin in sources.items():
        if key.startswith(dotted + "."):
            return origin
    parent = dotted.rpartition(".")[0]
    return sources.get(parent) if parent else None


def _section_at(schema: type[BaseModel], location: Sequence[Any]) -> Optional[type[BaseModel]]:
    """The section at `location`; None when it is a value, or nothing."""
    model: Any = schema
    for part in location:
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return None
        model = fields[part].annotation
    return model if hasattr(model, "model_fields") else None


def _known_keys(schema: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """The keys of the section at `location`; empty when it is not a section."""
    section = _section_at(schema, location)
    return [] if section is None else sorted(section.model_fields)


def _describe(schema: type[BaseModel], location: Sequence[Any]) -> str:
    model: Any = schema
    text = ""
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return text
        model, text = field.annotation, field.description or (field.annotation.__doc__ or "").split("\n")[0].rstrip(".")
    return text


def _required_below(schema: type[BaseModel], location: Sequence[Any]) -> list[list[Any]]:
    """The values that a missing section cannot do without, or the missing value itself."""
    section = _section_at(schema, location)
    if section is None:
        return [list(location)]
    names = [name for name, field in section.model_fields.items() if field.is_required()]
    return [path for name in names for path in _required_below(schema, [*location, name])] or [list(location)]


def _is_missing(problem: Any) -> bool:
    return problem["type"] in ("missing", "required_value")


def _explain(error: ValidationError, schema: type[BaseModel], source: str, sources: Sources,
             written_by: Optional[str]) -> ConfigError:
    """One line for each problem: file, dotted key, what came, what was expected, what to do."""
    lines: list[str] = []
    missing: list[str] = []
    problems = error.errors(include_url=False)
    for problem in problems:
        location = [part for part in problem["loc"] if not str(part).startswith("function-")]
        context = problem.get("ctx", {})
        if problem["type"] in ("required_value", "impossible"):
            location = [*location, *str(context["key"]).split(".")]
        named = [str(part) for part in location]
        dotted = ".".join(named)
        where = source_of(dotted, sources) or source
        if _is_missing(problem):
            for path in _required_below(schema, location):
                what, dotted = context.get("what") or _describe(schema, path), ".".join(map(str, path))
                missing.append(dotted)
                lines.append(f"{source}: {dotted}: required, and there is no default: {what}. Add --set {dotted}=...")
        elif problem["type"] == "extra_forbidden" and written_by is not None:
            lines.append(f"{where}: {dotted}: a setting that beitv2-core {__version__} does not know; it was saved by "
                         f"{written_by or 'an unknown version'}. Install that version of beitv2-core or a newer one.")
        elif problem["type"] == "extra_forbidden":
            known = _known_keys(schema, location[:-1])
            near = difflib.get_close_matches(named[-1], known, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            lines.append(f"{where}: {dotted}: unknown key.{hint} Known keys: {', '.join(known)}.")
        elif problem["type"] == "impossible":
            lines.append(f"{where}: {dotted}: {context['message']}.")
        elif problem.get("input", 0) is None and _section_at(schema, location) is not None:
            lines.append(f"{where}: {dotted}: nothing stands below it. Expected its keys "
                         f"({', '.join(_known_keys(schema, location))}); leave the line out where none is set.")
        else:
            came = problem.get("input")
            lines.append(f"{where}: {dotted}: {came!r} came ({type(came).__name__}). {problem['msg']}.")
    text = "\n".join(dict.fromkeys(lines))
    if all(_is_missing(problem) for problem in problems):
        return MissingValueError(text, missing)
    return ConfigError(text)

"""Variants of a comparison: a model or a published row, with settings of its own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from noisyrnn.checks import check_choice
from noisyrnn.models import MODELS, layer_options
from noisyrnn.pipeline.foreign import ForeignRow, is_foreign
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.settings import merge_settings, published_experiments, recommended

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a comparison.

    Args:
        name: Model, published experiment, or a function of a Python file such as `mine.py:build`.
        settings: Settings of `TrainConfig` that differ from the recommended ones, or from those of the experiment.
        label: Name in tables (default: the name, followed by the settings).
    """

    name: str
    settings: Mapping[str, Any]
    label: str | None = None

    @property
    def shown_label(self) -> str:
        """The label, such as `noisy additive=0.1`."""
        name = Path(self.name).name if is_foreign(self.name) else self.name
        return self.label or " ".join([name, *(f"{name}={value}" for name, value in self.settings.items())])

    @property
    def foreign(self) -> ForeignRow | None:
        """The function that builds the model, if it is not one of ours."""
        return ForeignRow(name=self.name, label=self.shown_label) if is_foreign(self.name) else None

    @property
    def model(self) -> str:
        """The model that is trained."""
        return self.name if self.name in MODELS else str(published_experiments()[self.name].train["model"])

    def run_config(self, shared: Mapping[str, Any], seed: int) -> TrainConfig:
        """Return the settings of one run.

        Args:
            shared: Settings of all variants; options that the model does not have are left out.
            seed: Seed of the run.

        Raises:
            ValueError: If a setting of the variant is unknown, not of its model, or has a wrong value.
        """
        options, of_any = layer_options(self.model), {name for model in MODELS for name in layer_options(model)}
        common = {name: value for name, value in shared.items() if name in options or name not in of_any}
        own = {**common, **self.settings}
        if self.name in MODELS:
            base = recommended(own.get("dataset", TrainConfig.dataset), self.name)
        else:
            base = dict(published_experiments()[self.name].train)
        label = {"label": self.shown_label} if self.settings or self.label or self.name not in MODELS else {}
        return TrainConfig.from_dict({**merge_settings(base, own), "model": self.model, "seed": seed, **label})


def read_variants(values: str | Sequence[str | Mapping[str, Any]]) -> tuple[Variant, ...]:
    """Read variants.

    Args:
        values: "noisy:additive=0, noisy:additive=0.1:step_size=0.3", or a list of such texts or of mappings such as
            `{"model": "noisy", "additive": 0.1, "label": "much noise"}`. A published experiment can take the place of
            the model, and so can a function of a Python file, `mine.py:build`, which has no settings.

    Raises:
        TypeError: If a variant is neither text nor a mapping.
        ValueError: If a name is unknown, a setting has no value, or two variants have one label.

    Example:
        >>> [variant.shown_label for variant in read_variants("noisy:additive=0, lstm, smnist-lipschitz:epochs=2")]
        ['noisy additive=0', 'lstm', 'smnist-lipschitz epochs=2']
    """
    if isinstance(values, str):
        values = [part.strip() for part in values.split(",")]
    variants = tuple(_read(value) for value in values)
    if not variants:
        raise ValueError("variants must name at least one model, got none. See noisyrnn list.")
    labels = [variant.shown_label for variant in variants]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"variants must differ in their labels, got {label!r} {labels.count(label)} times.")
    return variants


def _read(value: object) -> Variant:
    """Read one variant."""
    if isinstance(value, str) and is_foreign(value.strip()):
        name, settings = value.strip(), dict[str, Any]()
    elif isinstance(value, str):
        name, *parts = (part.strip() for part in value.split(":"))
        settings = {}
        for part in parts:
            setting, mark, text = part.partition("=")
            if not mark or not setting.strip() or not text.strip():
                raise ValueError(f"variants must be MODEL:setting=value, got {value!r}. Write noisy:additive=0.1.")
            name_of_setting = setting.strip().replace("-", "_")
            if name_of_setting in settings:
                raise ValueError(f"variants must set each setting once, got {name_of_setting} twice in {value!r}.")
            settings[name_of_setting] = _value(text.strip(), value)
    elif isinstance(value, Mapping):
        settings = dict(value)
        if "model" not in settings:
            raise ValueError(f"variants must each have a model, got {dict(value)!r}.")
        name = settings.pop("model")
    else:
        raise TypeError(f"variants must be texts or mappings, got {value!r}. Write noisy:additive=0.1.")
    label = settings.pop("label", None)
    if is_foreign(str(name)):
        if settings:
            raise ValueError(f"variants must not have settings for {name!r}, got {next(iter(settings))}.")
        return Variant(name=name, settings={}, label=label)
    check_choice("model of a variant", name, [*MODELS, *published_experiments()])
    for setting in settings:
        check_choice("setting of a variant", setting, TrainConfig.setting_names())
        if setting in ("seed", "model"):
            raise ValueError(f"variants must not set {setting}, got {settings[setting]!r}.")
        if setting in ("dataset", "values_per_step"):
            raise ValueError(
                f"variants must not set {setting}, got {settings[setting]!r}. All variants share one data set: give "
                f"--{setting.replace('_', '-')}."
            )
    return Variant(name=name, settings=settings, label=label)


def _value(text: str, variant: str) -> Any:
    """Read the value of a setting: a number, or what YAML makes of it."""
    if _EXPONENT.fullmatch(text):  # which YAML reads as a text
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(
            f"variants must have values such as 0.1, true or [5, 8], got {text!r} in {variant!r}."
        ) from None

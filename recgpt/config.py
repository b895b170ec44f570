"""Settings of model and training: frozen, checked when made, read from TOML with unknown keys refused."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from recgpt.errors import ConfigError
from recgpt.training_state import GENERATED, PROMPTS

ACTIVATIONS = ("gelu", "relu")
ATTENTION_SCALES = ("head", "model")
SIMILARITIES = ("cosine", "inner_product")
POSITIONS = ("relative", "absolute")
SCHEDULES = ("constant", "linear")
LOSSES = ("cross_entropy", "sampled_cross_entropy", "bce")
PRECISIONS = ("float32", "bfloat16")
PRESETS = ("default", "paper")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of the decoder; the sizes of the catalogue come from the data.

    Attributes:
        max_length: C, positions of the context window; generated tokens count.
        hidden_size: D, width of the model and of an interest vector.
        num_blocks: L, decoder blocks.
        num_heads: H, attention heads a block; divides ``hidden_size``.
        ffn_size: inner width of the position-wise feed-forward network.
        activation: of the feed-forward network, ``gelu`` or ``relu`` (the paper's).
        position: ``relative`` adds a learned bias for each head and distance to the attention scores, ``absolute`` adds
            a learned vector for each position to the input (eq. 2 of the paper).
        attention_scale: ``head`` divides attention scores by sqrt(D/H), ``model`` by sqrt(D) as eq. 2 of the paper.
        dropout: on embeddings, attention and feed-forward outputs, while training.
        similarity: of interests and items: ``cosine`` keeps both at unit length, ``inner_product`` (as the paper) none.
        temperature: what cosines are divided by before the softmax of training; unused otherwise.
        tied: score items with the item table itself rather than with an output matrix of its own.
        num_members: models side by side in one, as ``recgpt.model.ensemble`` makes them; each has its share of widths
            and heads. A model is trained with one.
    """

    max_length: int = 50
    hidden_size: int = 128
    num_blocks: int = 1
    num_heads: int = 2
    ffn_size: int = 512
    activation: str = "gelu"
    position: str = "relative"
    attention_scale: str = "head"
    dropout: float = 0.4
    similarity: str = "cosine"
    temperature: float = 0.07
    tied: bool = True
    num_members: int = 1

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("hidden_size", "num_blocks", "num_heads", "ffn_size", "num_members"):
            _check_range(self, name, 1, None)
        _check_range(self, "max_length", 2, None)
        _check_range(self, "dropout", 0.0, 0.95)
        _check_range(self, "temperature", 1e-3, 10.0)
        _check_choice(self, "activation", ACTIVATIONS)
        _check_choice(self, "similarity", SIMILARITIES)
        _check_choice(self, "position", POSITIONS)
        _check_choice(self, "attention_scale", ATTENTION_SCALES)
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"num_heads = {self.num_heads} does not divide hidden_size = {self.hidden_size}")
        if self.num_heads % self.num_members or self.ffn_size % self.num_members:
            raise ConfigError(
                f"num_members = {self.num_members} does not divide num_heads = {self.num_heads} and ffn_size = "
                f"{self.ffn_size}"
            )


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One training stage.

    Attributes:
        max_epochs: upper bound; 0 skips the stage.
        patience: epochs without a better validation NDCG@10 before the stage stops.
        batch_size: users a step.
        learning_rate: of Adam.
        schedule: ``constant``, or ``linear`` from ``learning_rate`` down to 0 at the end of ``max_epochs``.
        weight_decay: of Adam (L2), on all weights.
        loss: ``cross_entropy`` over the whole catalogue, ``sampled_cross_entropy`` over items that are drawn for each
            step (for catalogues too large for all of it), or the paper's ``bce``.
        num_negatives: sampled items: a step for ``sampled_cross_entropy``, where thousands are wanted, a position for
            ``bce``.
        precision: of products while training: ``bfloat16`` is twice as fast where the processor knows it; weights, sums
            and validation are float32 either way.
        smoothing: how much item vectors lean on those of neighbouring items while training, against their own; 0 = not
            at all (``recgpt.training.smoothing``).
        future_share: of what a position learns to predict, how much is not the next item but the few after it
            (``recgpt.training.losses.target_shares``); for ``cross_entropy``.
        user_dropout: probability that a user counts as the shared one in a training step; 1 = no user vectors.
    """

    max_epochs: int = 100
    patience: int = 10
    batch_size: int = 256
    learning_rate: float = 1e-3
    schedule: str = "constant"
    weight_decay: float = 0.0
    loss: str = "cross_entropy"
    num_negatives: int = 1
    precision: str = "float32"
    smoothing: float = 0.0
    future_share: float = 0.0
    user_dropout: float = 1.0

    def __post_init__(self) -> None:
        _check_types(self)
        _check_range(self, "max_epochs", 0, None)
        for name in ("patience", "batch_size", "num_negatives"):
            _check_range(self, name, 1, None)
        _check_range(self, "learning_rate", 1e-8, 10.0)
        _check_range(self, "weight_decay", 0.0, 10.0)
        _check_range(self, "smoothing", 0.0, 100.0)
        _check_range(self, "future_share", 0.0, 1.0)
        _check_range(self, "user_dropout", 0.0, 1.0)
        _check_choice(self, "schedule", SCHEDULES)
        _check_choice(self, "loss", LOSSES)
        _check_choice(self, "precision", PRECISIONS)
        if self.future_share and self.loss != "cross_entropy":
            raise ConfigError(
                f"future_share = {self.future_share} with loss = {self.loss!r}: only cross_entropy has items after the "
                "next one as targets; set future_share = 0"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The whole recipe: model, pre-training, prompt-tuning.

    Attributes:
        model: architecture.
        pretrain: stage 1, next-item prediction on plain histories.
        tune: stage 2, the same on prompt-enhanced histories (Algorithm 1 of the paper).
        prompts: what stage 2 puts between the real items: ``generated`` items, or, where the data tells them, the
            unclicked ones of real ``feedback``.
        num_prompts: K, generated items before each real item in stage 2, or the most unclicked ones, the newest; 0
            tunes on plain histories.
        seed: of every random choice.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: StageConfig = field(default_factory=StageConfig)
    tune: StageConfig = field(default_factory=StageConfig)
    prompts: str = GENERATED
    num_prompts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _check_types(self)
        _check_choice(self, "prompts", PROMPTS)
        _check_range(self, "num_prompts", 0, 20)
        _check_range(self, "seed", 0, 2**31 - 1)
        if self.model.num_members != 1:
            raise ConfigError(
                f"model.num_members = {self.model.num_members}: expected 1; train models one by one, then put them "
                "together: recgpt ensemble"
            )
        if self.pretrain.max_epochs == 0:
            raise ConfigError(
                "pretrain.max_epochs = 0: prompt-tuning starts from a pre-trained model; expected at least 1"
            )
        if self.num_prompts + 2 > self.model.max_length:
            raise ConfigError(
                f"num_prompts = {self.num_prompts} leaves no room for two real items in a window of "
                f"model.max_length = {self.model.max_length}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, the inverse of ``from_dict``."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any], *, source: str = "the settings") -> TrainingConfig:
        """Builds a recipe from nested values; ConfigError names ``source`` and an unknown or wrong key."""
        values = dict(values)
        model = build(ModelConfig, values.pop("model", {}), source=f"[model] of {source}")
        pretrain = build(StageConfig, values.pop("pretrain", {}), source=f"[pretrain] of {source}")
        tune = build(StageConfig, values.pop("tune", {}), source=f"[tune] of {source}")
        return build(TrainingConfig, values, source=source, model=model, pretrain=pretrain, tune=tune)


def load_training_config(preset: str = "default", path: Path | None = None) -> TrainingConfig:
    """Reads a preset and lays the values of a TOML file over it.

    Args:
        preset: one of ``PRESETS``.
        path: TOML file with the tables ``[model]``, ``[pretrain]``, ``[tune]`` and top-level keys of TrainingConfig;
            what it does not name keeps the preset's value.

    Raises:
        ConfigError: unknown preset, unreadable file, unknown key, or a value out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}")
    text = resources.files("recgpt.training").joinpath("presets", f"{preset}.toml").read_text()
    values = tomllib.loads(text)
    source = f"preset {preset}"
    if path is not None:
        source = str(path)
        try:
            override = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: expected a TOML file: {error}") from error
        values = _overlay(values, override)
    return TrainingConfig.from_dict(values, source=source)


Config = TypeVar("Config")


def build(config_class: type[Config], values: Any, *, source: str, **fixed: Any) -> Config:
    """Makes a config dataclass from a table of values; ConfigError lists the valid keys when one is unknown."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected a table, got {values!r}")
    fields = [f.name for f in dataclasses.fields(config_class) if f.name not in fixed]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{source}: unknown key {', '.join(unknown)}; valid keys: {', '.join(fields)}")
    try:
        return config_class(**values, **fixed)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _overlay(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        merged[key] = _overlay(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _check_types(config: Any) -> None:
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        expected = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}.get(str(f.type))
        if expected and (not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected)):
            raise ConfigError(f"{f.name} = {value!r}: expected {f.type}")


def _check_range(config: Any, name: str, low: float, high: float | None) -> None:
    value = getattr(config, name)
    if not (value >= low and (high is None or value <= high)):
        expected = f"at least {low}" if high is None else f"{low} to {high}"
        raise ConfigError(f"{name} = {value!r}: expected {expected}")


def _check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise ConfigError(f"{name} = {value!r}: expected one of {', '.join(choices)}")


PAPER_SHAPE = ModelConfig(hidden_size=64, ffn_size=256)
"""Of the size of the paper's model: for measuring how fast one runs."""

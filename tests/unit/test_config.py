from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from recgpt.config import ModelConfig, StageConfig, TrainingConfig, load_training_config
from recgpt.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_presets_load_and_survive_a_round_trip(preset: str) -> None:
    config = load_training_config(preset)
    assert TrainingConfig.from_dict(config.to_dict()) == config


def test_the_paper_preset_is_the_papers_set_up() -> None:
    config = load_training_config("paper")
    assert (config.model.max_length, config.model.hidden_size, config.model.num_blocks) == (50, 64, 1)
    assert config.model.activation == "relu"
    assert config.pretrain.loss == config.tune.loss == "bce"
    assert config.pretrain.num_negatives == 1


def test_a_file_is_laid_over_the_preset_key_by_key(tmp_path: Path) -> None:
    base = load_training_config("default")
    path = written(tmp_path, "seed = 7\n[model]\nhidden_size = 32\n[tune]\nmax_epochs = 0\n")
    config = load_training_config("default", path)
    assert config == dataclasses.replace(
        base,
        seed=7,
        model=dataclasses.replace(base.model, hidden_size=32),
        tune=dataclasses.replace(base.tune, max_epochs=0),
    )


def test_an_empty_file_is_the_preset(tmp_path: Path) -> None:
    assert load_training_config("paper", written(tmp_path, "")) == load_training_config("paper")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model]\nhiden_size = 32\n", ["[model] of", "recipe.toml", "hiden_size", "hidden_size, num_blocks"]),
        ("[pretrain]\nepochs = 3\n", ["[pretrain] of", "epochs", "max_epochs"]),
        ("learning_rate = 0.1\n", ["recipe.toml", "learning_rate", "num_prompts, seed"]),
        ("[model]\nhidden_size = 32.0\n", ["hidden_size = 32.0", "int"]),
        ("[model]\ntied = 1\n", ["tied = 1", "bool"]),
        ("[model]\nnum_blocks = true\n", ["num_blocks = True", "int"]),
        ("[model]\nhidden_size = '64'\n", ["hidden_size = '64'", "int"]),
        ("[model]\nhidden_size = 50\nnum_heads = 4\n", ["num_heads = 4", "hidden_size = 50"]),
        ("[model]\nactivation = 'swish'\n", ["'swish'", "gelu, relu"]),
        ("[model]\nmax_length = 1\n", ["max_length = 1", "at least 2"]),
        ("[model]\ndropout = nan\n", ["dropout = nan", "0.0 to 0.95"]),
        ("[model]\ndropout = 1.5\n", ["dropout = 1.5", "0.0 to 0.95"]),
        ("[tune]\nlearning_rate = 0\n", ["[tune] of", "learning_rate = 0"]),
        ("[pretrain]\nfuture_share = 0.3\nloss = 'bce'\n", ["future_share = 0.3", "'bce'", "set future_share = 0"]),
        ("[tune]\nloss = 'hinge'\n", ["'hinge'", "cross_entropy, bce"]),
        ("prompts = 'clicked'\n", ["'clicked'", "generated, feedback"]),
        ("[pretrain]\nmax_epochs = 0\n", ["pretrain.max_epochs = 0", "at least 1"]),
        ("num_prompts = 19\n[model]\nmax_length = 20\n", ["num_prompts = 19", "max_length = 20"]),
        ("seed = -1\n", ["seed = -1"]),
        ("model = 5\n", ["[model] of", "a table", "5"]),
        ("seed = \n", ["recipe.toml", "TOML"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(tmp_path: Path, text: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_training_config("default", written(tmp_path, text))
    for part in said:
        assert part in str(caught.value)


def test_unreadable_files_and_unknown_presets_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.toml"):
        load_training_config("default", tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="TOML file"):
        load_training_config("default", tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="binary.toml"):
        load_training_config("default", tmp_path / "binary.toml")
    with pytest.raises(ConfigError, match="'best'.*default, paper"):
        load_training_config("best")


def test_a_whole_number_will_do_for_a_float() -> None:
    assert StageConfig(weight_decay=0).weight_decay == 0
    assert ModelConfig(dropout=0).dropout == 0


def test_settings_are_frozen_and_by_name_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().hidden_size = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        ModelConfig(50)  # type: ignore[call-arg]

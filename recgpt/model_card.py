"""The model card that a bundle carries: what the model is, what it was trained on, how good it is, where it ends.

Source of the form: Mitchell et al. 2019, "Model cards for model reporting", cut to what is known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recgpt.bundle import Manifest
from recgpt.errors import DataError
from recgpt.tables import markdown_table
from recgpt.training_state import TrainingState

METRICS = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")

_LIMITS = """\
- It knows the users and items it was trained with. Unknown users get the shared user vector, unknown items are left out
  of a history, and a history without any known item gets the most popular items; each answer says which applied.
- Only the newest {window} tokens count, generated ones included; all of a history counts as seen.
- The split is leave-one-out: what is held out of one user may lie before what others are trained on, so these numbers
  are for comparing models on the same split and no forecast of clicks.
- The data's own biases (who is in it, what was shown to them) are in the model; nothing was done about them.
"""


def render_card(manifest: Manifest, *, num_interactions: int, evaluation: Mapping[str, Any]) -> str:
    """Writes the card as Markdown.

    Args:
        manifest: of the bundle; its sizes, version and training are on the card.
        num_interactions: actions it was trained on.
        evaluation: what ``recgpt evaluate --json`` wrote, or nothing.
    """
    training, model = manifest.training, manifest.model
    sections = [
        f"# RecGPT on {training.data}, version {manifest.version}",
        (
            "A small GPT over item ids that recalls items with several autoregressively generated interest vectors "
            "(arXiv 2404.08675)."
        ),
        "## Data",
        markdown_table(
            ("", ""),
            [
                ("name", training.data),
                ("SHA-256 of its content", f"`{training.data_sha256}`" if training.data_sha256 else "not recorded"),
                ("users", f"{model.num_users:,}"),
                ("items", f"{model.num_items:,}"),
                ("actions trained on", f"{num_interactions:,}"),
            ],
        ),
        "## Recipe",
        *_recipe(training),
        "## Quality",
        *_validation(training),
        _quality(evaluation),
        f"Exported in {manifest.dtype}; interests are float32 in any case.",
        "## Limits",
        _LIMITS.format(window=model.max_length),
    ]
    return "\n\n".join(section.rstrip() for section in sections if section) + "\n"


def read_evaluation(path: Path, training: TrainingState) -> dict[str, Any]:
    """Reads what ``recgpt evaluate --json`` wrote; DataError if it is something else, or about another model."""
    try:
        evaluation: dict[str, Any] = json.loads(path.read_text())
        evaluated = evaluation["training"]
        _quality(evaluation)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected what recgpt evaluate --json writes: {error!r}") from error
    if evaluated != json.loads(json.dumps(training.to_dict())):
        raise DataError(f"{path} is the evaluation of another model; evaluate the checkpoint that is exported")
    return evaluation


def _members(training: TrainingState) -> list[TrainingState]:
    """Of an ensemble its members, else the model itself."""
    return [TrainingState.from_dict(member) for member in training.members] or [training]


def _recipe(training: TrainingState) -> Iterator[str]:
    """What was done, and each recipe once."""
    members = _members(training)
    if len(members) > 1:
        yield f"An ensemble of {len(members)} models, whose scores are averaged."
    recipes: dict[str, list[TrainingState]] = {}
    for member in members:
        same = {name: value for name, value in member.recipe.items() if name != "seed"}
        recipes.setdefault(json.dumps([_stages(member), same], indent=2), []).append(member)
    for alike in recipes.values():
        seeds = ", ".join(str(member.seed) for member in alike)
        epochs = ", ".join(str(member.num_epochs) for member in alike)
        yield f"{_stages(alike[0])}; seed {seeds}; {epochs} epochs in all."
        if alike[0].recipe:
            yield "```json\n" + json.dumps(alike[0].recipe, indent=2) + "\n```"


def _stages(training: TrainingState) -> str:
    if not training.is_prompt_tuned:
        return "Pre-trained"
    if training.max_unclicked:
        return f"Pre-trained, then tuned on up to {training.num_prompts} unclicked items before each click as prompts"
    prompts = f"with {training.num_prompts} generated prompts an item" if training.num_prompts else "without prompts"
    return f"Pre-trained, then tuned {prompts}"


def _validation(training: TrainingState) -> Iterator[str]:
    members = _members(training)
    if len(members) > 1:
        yield "The ensemble was not validated as a whole. Its members:"
    for member in members:
        values = ", ".join(f"{name} {value:.4f}" for name, value in member.validation.items()) or "not recorded"
        yield f"On the validation targets, by which the weights of seed {member.seed} were chosen: {values}."


def _quality(evaluation: Mapping[str, Any]) -> str:
    if not evaluation:
        return (
            "On the test targets: not evaluated at the time of the export (`recgpt evaluate --json FILE`, then "
            "`export/to_onnx.py --evaluation FILE`)."
        )
    rows = [
        (row["name"], ",".join(map(str, row["quotas"] or ())), *(f"{row[metric]:.4f}" for metric in METRICS))
        for row in evaluation["rows"]
    ]
    table = markdown_table(("model", "quotas", *METRICS), rows)
    return f"On the test targets, full ranking, seen items left out, ties against the model:\n\n{table}"

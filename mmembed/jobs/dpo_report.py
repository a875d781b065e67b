"""What a run of preference training shows for itself: held-out pairs by stage, guesses without images, a table, a card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mmembed.interactive.pair_accuracy import PairLogProbabilities, pair_accuracy
from mmembed.interactive.preference_baselines import text_baselines
from mmembed.pages import escape_markdown, markdown_table, text_table
from mmembed.statistics import paired_bootstrap

if TYPE_CHECKING:
    from datasets import Dataset

    from mmembed.jobs.dpo_options import DpoOptions

_LOGGED = ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")


def pair_figures(
    stages: Mapping[str, PairLogProbabilities], train: Dataset, held_out: Dataset | None, *, samples: int = 2000
) -> dict[str, Any]:
    """Held-out accuracy at each stage of a run.

    Args:
        stages: log-probabilities of the held-out pairs by stage: "base", "warm_start", "trained".
        train: training pairs.
        held_out: held-out pairs; None: nothing was measured.
        samples: resamples of the intervals; pairs of one target image are drawn together.

    Returns:
        "accuracy" by stage, "gain" of the trained model over each other stage, paired, and "without images": what guesses by
        the questions' texts reach. Empty without held-out pairs.
    """
    if held_out is None or not len(held_out) or not stages:
        return {}
    clusters = held_out["target_key"][:] if "target_key" in held_out.column_names else None
    names = list(stages)
    accuracy = {}
    for place, (name, found) in enumerate(stages.items()):
        # DPO's reference is the stage before
        reference = stages[names[place - 1]] if name == "trained" and place else None
        accuracy[name] = pair_accuracy(found, reference, clusters=clusters, samples=samples)
    gain = {}
    for name, found in stages.items():
        if name != "trained" and "trained" in stages:
            right = [_right(stages["trained"]), _right(found)]
            difference = paired_bootstrap(*right, samples=samples, clusters=clusters)
            gain[name] = {key: float(getattr(difference, key)) for key in ("mean", "low", "high", "p_value", "n")}
    sides = [_texts(part) for part in (train, held_out)]
    templates = [_templates(part) for part in (train, held_out)]
    guesses = text_baselines(
        *sides, train_templates=templates[0], test_templates=templates[1] if templates[0] else (), clusters=clusters
    )
    return {
        "accuracy": accuracy,
        "gain": gain,
        "without images": {
            name: {"mean": one.mean, "low": one.low, "high": one.high, "n": one.n} for name, one in guesses.items()
        },
    }


def last_logged(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The first and the last of what TRL logs of its training steps.

    Example:
        >>> last_logged([{"loss": 0.69}, {"loss": 0.5, "rewards/margins": 0.4}, {"train_loss": 0.6}])
        {'first loss': 0.69, 'loss': 0.5, 'rewards/margins': 0.4}
    """
    steps = [line for line in history if "loss" in line]
    if not steps:
        return {}
    return {"first loss": float(steps[0]["loss"])} | {
        name: float(steps[-1][name]) for name in _LOGGED if name in steps[-1]
    }


def results_table(figures: Mapping[str, Any]) -> str:
    """The stages as a terminal's table, each figure with its interval.

    Args:
        figures: what stands in `metrics.json`.
    """
    rows = _rows(figures)
    return text_table(rows, ["held-out pairs", "share decided right", "n"]) if rows else "no held-out pairs were given"


def save_model(model: Any, processor: Any, folder: str) -> None:
    """Save an adapter or a model, and its processor, as safetensors.

    Args:
        model: a `PeftModel` or a transformers model.
        processor: its processor.
        folder: where it goes.
    """
    if hasattr(model, "peft_config"):
        model.save_pretrained(folder, selected_adapters=["default"])
    else:
        model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_card(folder: Path, figures: Mapping[str, Any], *, options: DpoOptions, args: Any, base_model: str) -> None:
    """Write the model card of a questioner.

    Args:
        folder: the saved model.
        figures: what stands in `metrics.json`.
        options: of the run.
        args: the training arguments.
        base_model: what was trained: a Hub name becomes metadata, of a folder the last part is told.
    """
    adapter = (folder / "adapter_config.json").is_file()
    base = options.model or "a small new Idefics3"
    head: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["mmembed", "trl", "dpo", "interactive-retrieval", *(["lora"] if adapter else [])],
    }
    if options.model and not Path(base_model).exists():
        head["base_model"] = options.model
    if options.language:
        head["language"] = list(options.language)
    if options.license:
        head["license"] = options.license
    shown = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "beta", "loss_type",
             "label_smoothing", "lr_scheduler_type", "seed", "bf16")  # fmt: skip
    facts = {
        "trained": "adapter" if adapter else "every weight",
        "loss": options.loss,
        "warm start": json.dumps(options.warm_start) if options.warm_start else "none",
        "training pairs": figures["pairs"]["train"],
        "held-out pairs": figures["pairs"]["held out"],
        **{name: str(getattr(args, name)) for name in shown},
    }
    load = (
        'model = load_vision_language("path/to/the/base/model", adapter="path/to/this/folder")'
        if adapter
        else 'model = load_vision_language("path/to/this/folder")'
    )
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {escape_markdown(Path(str(args.output_dir)).name)}",
        "",
        f"A questioner: it sees candidates of a search and asks what tells them apart. Trained by preference (DPO) from "
        f"{escape_markdown(Path(base).name)}.",
        "",
        "```python",
        "from mmembed.interactive.vision_language_loading import load_vision_language",
        "from mmembed import VisionLanguageQuestioner",
        "",
        load,
        "questioner = VisionLanguageQuestioner(model, items)  # items: a table with the columns id and image",
        "```",
        "",
        "## Held-out pairs",
        "",
        markdown_table(_rows(figures), ["held-out pairs", "share decided right", "n"])
        if _rows(figures)
        else "None were given.",
        "",
        "The share of pairs whose better question is the likelier one, with 95 % bootstrap intervals over target images. A "
        "model that is not above the guesses without images has learnt nothing of the images.",
        "",
        "## Training",
        "",
        markdown_table([[name, value] for name, value in facts.items()], ["what", "value"]),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _rows(figures: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for stage, found in figures.get("accuracy", {}).items():
        for kind in ("accuracy", "accuracy a token", "implicit reward"):
            if kind in found:
                words = {
                    "accuracy": "by likelihood",
                    "accuracy a token": "by likelihood a token",
                    "implicit reward": "by reward",
                }
                rows.append([f"{stage}, {words[kind]}", _shown(found[kind]), str(int(found[kind]["n"]))])
    for name, found in figures.get("gain", {}).items():
        rows.append([f"trained above {name}, paired", _shown(found, signed=True), str(int(found["n"]))])
    for name, found in figures.get("without images", {}).items():
        rows.append([f"guess by {name}, no images", _shown(found), str(int(found["n"]))])
    return rows


def _shown(figure: Mapping[str, float], *, signed: bool = False) -> str:
    form = "{:+.3f}" if signed else "{:.3f}"
    mean, low, high = (form.format(figure[key]) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _right(found: PairLogProbabilities) -> np.ndarray:
    margin = found.chosen - found.rejected
    return np.where(np.abs(margin) < 1e-6, 0.5, margin > 0)


def _texts(rows: Dataset) -> list[tuple[str, str]]:
    def text(messages: list[dict[str, Any]]) -> str:
        return "".join(block.get("text") or "" for block in messages[-1]["content"])

    sides = rows.select_columns(["chosen", "rejected"])
    return [(text(row["chosen"]), text(row["rejected"])) for row in sides]


def _templates(rows: Dataset) -> list[tuple[str, str]]:
    if "chosen_attribute" not in rows.column_names or "rejected_attribute" not in rows.column_names:
        return []
    sides = zip(rows["chosen_attribute"][:], rows["rejected_attribute"][:])
    return [tuple((one or "").partition("=")[0] for one in pair) for pair in sides]  # type: ignore[misc]

"""What became of the states and questions that pairs are made of: what each filter dropped, and what pairs look like."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.interactive.preference_baselines import text_baselines
from mmembed.interactive.preference_filters import Dropped, PreferencePair, template_of
from mmembed.interactive.preference_scores import ScoredState
from mmembed.pages import escape_markdown, markdown_table, text_table
from mmembed.whole_files import write_whole

REPORT, FIGURES = "report.md", "report.json"
_EXAMPLES = 12


def preference_figures(
    *,
    given: int,
    left_out: Mapping[str, int],
    tried: Sequence[ScoredState],
    dropped: Mapping[str, Dropped],
    train: Sequence[PreferencePair],
    test: Sequence[PreferencePair],
    names: Mapping[str, str],
) -> dict[str, Any]:
    """The numbers of a run, plain JSON.

    Args:
        given: states that there were.
        left_out: states in which nothing was tried, by reason.
        tried: the others.
        dropped: of `select_pairs`.
        train: pairs to train on.
        test: held-out pairs.
        names: by target id, what makes two targets the same image.

    Returns:
        "states", "questions", "dropped" by stage and reason with examples, "pairs" of each part with their targets,
        templates, margins and lengths, "seeds": how often one answer seed alone would have turned a pair round, and
        "text baselines" on the held-out pairs.
    """
    parts = {"train": list(train), "test": list(test)}

    def sides(pairs: Sequence[PreferencePair], read: Any) -> list[tuple[Any, Any]]:
        return [(read(pair.chosen.question), read(pair.rejected.question)) for pair in pairs]

    def text(question: Any) -> str:
        return str(question.text)

    keys = {
        name: [names.get(pair.state.target_id, pair.state.target_id) for pair in part] for name, part in parts.items()
    }
    baselines = text_baselines(
        sides(train, text),
        sides(test, text),
        train_templates=sides(train, template_of),
        test_templates=sides(test, template_of),
        clusters=keys["test"],
    )
    questions = [found for state in tried for found in state.questions]
    return {
        "states": {
            "given": given,
            "left out": dict(left_out),
            "tried": len(tried),
            "without a question": sum(not state.questions for state in tried),
        },
        "questions": {
            "tried": len(questions),
            "mean a state": len(questions) / len(tried) if tried else 0.0,
            "gain": _spread([found.gain for found in questions]),
            "not measured": sum(found.information_gain is None for found in questions),
        },
        "dropped": {
            stage: {
                reason: {"count": count, "examples": found.examples[reason]}
                for reason, count in found.counts.most_common()
            }
            for stage, found in dropped.items()
        },
        "pairs": {
            name: {
                "pairs": len(part),
                "targets": len(set(keys[name])),
                "states": len({pair.state.key for pair in part}),
                "margin": _spread([pair.margin for pair in part]),
                "words": {
                    side: float(np.mean([len(getattr(pair, side).question.text.split()) for pair in part]))
                    if part
                    else 0.0
                    for side in ("chosen", "rejected")
                },
                "chosen templates": dict(Counter(template_of(pair.chosen.question) for pair in part).most_common(20)),
            }
            for name, part in parts.items()
        },
        "seeds": _seeds(tried),
        "text baselines": {
            name: {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}
            for name, found in baselines.items()
        },
        "examples": [
            {
                "state": pair.state.key,
                "rank": pair.state.rank,
                "chosen": pair.chosen.question.text,
                "chosen score": pair.chosen.score,
                "rejected": pair.rejected.question.text,
                "rejected score": pair.rejected.score,
            }
            for pair in [*train, *test][:_EXAMPLES]
        ],
    }


def preference_table(figures: Mapping[str, Any]) -> str:
    """The numbers as a terminal's table.

    Args:
        figures: from `preference_figures`.

    Returns:
        Lines of what was given, dropped and kept.
    """
    return text_table(_lines(figures), ["stage", "what", "count"])


def write_preference_report(folder: str | os.PathLike[str], figures: Mapping[str, Any]) -> Path:
    """Write `report.json` and `report.md` into a folder.

    Args:
        folder: it is made.
        figures: from `preference_figures`.

    Returns:
        The path of `report.md`.
    """
    place = Path(folder)
    write_whole(
        place / FIGURES,
        lambda new: Path(new).write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8"),
    )
    rows = [
        [
            one["state"],
            one["rank"],
            one["chosen"],
            round(one["chosen score"], 2),
            one["rejected"],
            round(one["rejected score"], 2),
        ]
        for one in figures["examples"]
    ]
    dropped = [
        [stage, reason, found["count"], " · ".join(found["examples"][:2])]
        for stage, reasons in figures["dropped"].items()
        for reason, found in reasons.items()
    ]
    baselines = [
        [name, f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]", one["n"]]
        for name, one in figures["text baselines"].items()
    ]
    parts = [
        "# Pairs of questions",
        markdown_table(_lines(figures), ["stage", "what", "count"]),
        "## What was dropped",
        markdown_table(dropped, ["stage", "reason", "count", "such as"]) if dropped else "Nothing.",
        "## Held-out pairs that are decided right without the images",
        markdown_table(baselines, ["guess by", "share, 95 % interval over targets", "n"])
        if baselines
        else "No held-out pairs.",
        escape_markdown(
            f"One answer seed alone would have ordered {_percent(figures['seeds'])} of all question pairs that differ otherwise "
            "than the mean of all seeds and targets does."
        ),
        "## Some pairs",
        markdown_table(rows, ["state", "rank", "chosen", "score", "rejected", "score "]) if rows else "None.",
    ]
    write_whole(place / REPORT, lambda new: Path(new).write_text("\n\n".join(parts) + "\n", encoding="utf-8"))
    return place / REPORT


def _lines(figures: Mapping[str, Any]) -> list[list[Any]]:
    states, questions = figures["states"], figures["questions"]
    lines: list[list[Any]] = [["states", "given", states["given"]]]
    lines += [["states", reason, -count] for reason, count in states["left out"].items()]
    lines += [["states", "tried", states["tried"]], ["questions", "tried", questions["tried"]]]
    for stage, reasons in figures["dropped"].items():
        lines += [[stage, reason, -found["count"]] for reason, found in reasons.items()]
    for name, part in figures["pairs"].items():
        lines += [["kept", f"{name} pairs", part["pairs"]], ["kept", f"{name} target images", part["targets"]]]
    return lines


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    found = np.quantile(np.asarray(values, dtype=np.float64), [0.05, 0.5, 0.95])
    return {"mean": float(np.mean(values)), "5%": float(found[0]), "median": float(found[1]), "95%": float(found[2])}


def _seeds(tried: Sequence[ScoredState]) -> dict[str, Any]:
    """Of all two questions of a state whose mean gains differ, how often one seed alone orders them the other way."""
    turned = compared = 0
    for state in tried:
        for number, one in enumerate(state.questions):
            for other in state.questions[:number]:
                whole = one.gain - other.gain
                if abs(whole) < 1e-9:
                    continue
                for a, b in zip(one.gains, other.gains):
                    compared += 1
                    turned += (a - b) * whole <= 0
    return {"compared": compared, "turned": turned, "share": turned / compared if compared else None}


def _percent(seeds: Mapping[str, Any]) -> str:
    return "none" if not seeds["compared"] else f"{100 * seeds['share']:.1f} %"

"""The model card: what a trained model is, how to use it, what it was trained on and how well it does."""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from huggingface_hub.repocard_data import eval_results_to_model_index

from mmembed.export.hub_results import (
    HUB_ID,
    EvaluationData,
    EvaluationResult,
    arrow,
    evaluation_results,
    metadata_text,
    model_index_entries,
    write_result_file,
)
from mmembed.pages import escape_markdown, markdown_table

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual|code")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_TAG = re.compile(r"[\w.:/+-]+( [\w.:/+-]+)*")
_SECRET = re.compile(r"token$|secret|password|api_?key|credential", re.IGNORECASE)
_SECRET_WORD = re.compile(
    r"(--[\w.-]*(?:token|secret|password|api[_-]?key|credential))(\s+|=)(?:'[^']*'|\"[^\"]*\"|\S+)", re.IGNORECASE
)
_PACKAGES = ("mmembed", "sentence-transformers", "transformers", "torch", "datasets", "accelerate")
_INPUTS = {"text": "texts", "image": "images", "fused": "texts with an image"}
_COUNTS = ("n", "documents")


@dataclass(frozen=True)
class CardFacts:
    """What a model card says, as plain values.

    Texts may come from a stranger's data: they appear on the card as they are, never as markup or metadata.

    Args:
        name: of the model, its first heading.
        inputs: what it encodes: "text", "image", "fused".
        dimensions: length of its vectors; None is left out.
        model_id: its name on the Hub, for the example; None: the example loads the folder that it stands in.
        base_model: what it was fine-tuned from, one or several. A Hub id becomes metadata; of a local path the last
            part is shown.
        languages: ISO codes such as "en".
        license: as the Hub spells it, such as "apache-2.0".
        datasets: names of the data; those that are Hub ids become metadata.
        tags: more tags for the Hub.
        description: a paragraph.
        limitations: a paragraph.
        training_data: what to say of it by name, such as ``{"training pairs": 5956, "leakage check": "0 of …"}``.
        losses: one text a loss.
        hyper_parameters: by name; entries named like a secret are left out.
        results: stage ("before", "after": this model, a reference) → direction → metric → a number or ``{"mean", "low", "high"}``,
            with "n" (queries) and "documents" beside the metrics.
        evaluated_on: what `results` were measured on; None: the `datasets`.
        gains: direction → ``{"mean", "low", "high", "p_value", "n"}``, the paired difference in `gain_metric`.
        gain_metric: what `gains` are measured in.
        confidence: of the intervals.
        contact_sheet: a picture in the model's folder, by its name there.
        command: the command line that trained it, without folders of a machine.
        data_hashes: name of a file or table that it was trained on → its SHA-256.
        versions: of the software; None: of what is installed.

    Raises:
        ValueError: an input, language, licence or tag that the Hub would not take.

    Example:
        >>> facts = CardFacts("red-shoes", base_model="someone/clip", languages=["en"], license="mit")
        >>> card_text(facts).splitlines()[:3]
        ['---', 'library_name: sentence-transformers', 'pipeline_tag: sentence-similarity']
    """

    name: str
    inputs: Sequence[str] = ("text", "image")
    dimensions: int | None = None
    model_id: str | None = None
    base_model: str | Sequence[str] | None = None
    languages: Sequence[str] = ()
    license: str | None = None
    datasets: Sequence[str] = ()
    tags: Sequence[str] = ()
    description: str = ""
    limitations: str = ""
    training_data: Mapping[str, object] = field(default_factory=dict)
    losses: Sequence[str] = ()
    hyper_parameters: Mapping[str, object] = field(default_factory=dict)
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluated_on: EvaluationData | None = None
    gains: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    gain_metric: str = "recall@1"
    confidence: float = 0.95
    contact_sheet: str | None = None
    command: str | None = None
    data_hashes: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if not self.inputs or set(self.inputs) - set(_INPUTS):
            raise ValueError(f"inputs must be some of {', '.join(_INPUTS)}, got {self.inputs!r}")
        for what, values, allowed, example in (
            ("languages", self.languages, _LANGUAGE, "'en' or 'multilingual'"),
            ("license", [self.license] if self.license is not None else [], _LICENSE, "'apache-2.0' or 'other'"),
            ("tags", self.tags, _TAG, "'e-commerce'"),
            ("model_id", [self.model_id] if self.model_id is not None else [], HUB_ID, "'owner/name'"),
        ):
            for value in [values] if isinstance(values, str) else values:
                if isinstance(values, str) or not allowed.fullmatch(value):
                    raise ValueError(f"{what}: the Hub does not take {value!r}; write it as in {example}, in a list")


def card_text(facts: CardFacts, *, trust_remote_code: bool = False) -> str:
    """Write the text of a model card.

    Args:
        facts: what to say.
        trust_remote_code: whether the model's own code has to be allowed where mmembed is not installed.

    Returns:
        Markdown with front matter.

    Example:
        >>> text = card_text(CardFacts("shoes", results={"after": {"text_to_image": {"recall@1": 0.5, "n": 80}}}))
        >>> "| text → image | after | 0.500 | 80 |" in text
        True
    """
    sections = [
        f"# {escape_markdown(facts.name)}",
        _summary(facts),
        escape_markdown(facts.description),
        "## Use",
        _usage(facts, trust_remote_code),
        *_results(facts),
        *_section("Training data", _table(_training_data(facts), "what", "value")),
        *_data_hashes(facts),
        *_training(facts),
        *_section("Limitations", escape_markdown(facts.limitations)),
        *_section("Versions", _table(_versions() if facts.versions is None else facts.versions, "package", "version")),
    ]
    front = yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{front}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def write_card(folder: str | os.PathLike[str], facts: CardFacts) -> Path:
    """Write the model card of a saved model, in place of the one that was there, and its figures into `.eval_results`.

    Args:
        folder: what `save_pretrained` wrote. Whether its own code is needed is read from its configuration.
        facts: what to say.

    Returns:
        The path of ``README.md``.

    Raises:
        ValueError: the folder is not there, or the contact sheet is not in it.

    Example:
        >>> folder = tempfile.mkdtemp()
        >>> write_card(folder, CardFacts("shoes")).name
        'README.md'
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: save the model first, then write its card")
    sheet = facts.contact_sheet
    if sheet is not None and (Path(sheet).name != sheet or not (folder / sheet).is_file()):
        raise ValueError(
            f"contact_sheet {sheet!r} is not the name of a file in {folder}: put the picture beside the model"
        )
    text = card_text(facts, trust_remote_code=_has_own_code(folder))
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".README.", suffix=".md")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner reads
        os.replace(temporary, folder / "README.md")
    except BaseException:
        os.unlink(temporary)
        raise
    if own := _own_results(facts):
        write_result_file(folder, own, _evaluated_on(facts), confidence=facts.confidence)
    return folder / "README.md"


def _metadata(facts: CardFacts) -> dict[str, Any]:
    bases = [base for base in _base_models(facts) if _is_hub_id(base)]
    metadata: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": list(
            dict.fromkeys(["sentence-transformers", "mmembed", "feature-extraction", *_modality(facts), *facts.tags])
        ),
        "language": list(facts.languages),
        "license": facts.license,
        "base_model": bases[0] if len(bases) == 1 else bases,
        "datasets": [name for name in facts.datasets if _is_hub_id(name)],
        "metrics": [metadata_text(metric) for metric in _metrics(facts.results)],
        "model-index": _model_index(facts),
    }
    return {key: value for key, value in metadata.items() if value}


def _modality(facts: CardFacts) -> list[str]:
    return ["multimodal"] if set(facts.inputs) - {"text"} else []


def _model_index(facts: CardFacts) -> list[dict[str, Any]]:
    """The last stage's figures in the Hub's form; earlier stages are other models."""
    entries = model_index_entries(_own_results(facts), _evaluated_on(facts), confidence=facts.confidence)
    return eval_results_to_model_index(metadata_text(facts.name) or "model", entries) if entries else []


def _own_results(facts: CardFacts) -> list[EvaluationResult]:
    return evaluation_results(facts.results.get("after") or {})


def _evaluated_on(facts: CardFacts) -> EvaluationData:
    return facts.evaluated_on or EvaluationData(", ".join(facts.datasets) or "held-out data")


def _summary(facts: CardFacts) -> str:
    inputs = [_INPUTS[kind] for kind in facts.inputs]
    listed = inputs[0] if len(inputs) == 1 else f"{', '.join(inputs[:-1])} and {inputs[-1]}"
    space = f"{facts.dimensions}-dimensional vectors" if facts.dimensions else "vectors"
    bases = [escape_markdown(_without_folders(base)) for base in _base_models(facts)]
    origin = f"fine-tuned from {' and '.join(bases)}" if bases else "trained"
    return (
        f"A [sentence-transformers](https://sbert.net) model that maps {listed} to {space} in one space, for search, "
        f"matching and clustering, {origin} with mmembed."
    )


def _usage(facts: CardFacts, trust_remote_code: bool) -> str:
    imports, code = ["from sentence_transformers import SentenceTransformer"], []
    where = json.dumps(facts.model_id or ".")
    note = "" if facts.model_id else "  # the folder of this card"
    remote = ", trust_remote_code=True" if trust_remote_code else ""
    code.append(f"model = SentenceTransformer({where}{remote}){note}")
    encoded = []
    if "text" in facts.inputs:
        code.append('texts = model.encode([{"text": "a red dress"}, {"text": "a blue mug"}])')
        encoded.append("texts")
    if set(facts.inputs) & {"image", "fused"}:
        imports.insert(0, "from PIL import Image")
        code.append('photo = Image.new("RGB", (224, 224), "red")  # or Image.open("photo.jpg").convert("RGB")')
    if "image" in facts.inputs:
        code.append('images = model.encode([{"image": photo}])')
        encoded.append("images")
    if "fused" in facts.inputs:
        code.append('fused = model.encode([{"text": "a red dress", "image": photo}])')
        encoded.append("fused")
    code.append(f"scores = model.similarity({encoded[0]}, {encoded[-1]})  # cosine, higher is closer")
    lines = "\n".join([*imports, "", *code])
    allowed = "`trust_remote_code=True` runs the model's own code; with mmembed installed, `mmembed.load_model` needs no such leave."
    return f"```python\n{lines}\n```" + (f"\n\n{allowed}" if trust_remote_code else "")


def _results(facts: CardFacts) -> list[str]:
    parts = []
    metrics = _metrics(facts.results)
    if metrics:
        counts = [
            count
            for count in _COUNTS
            if any(count in row for s in facts.results.values() for row in _directions(s).values())
        ]
        directions = dict.fromkeys(name for stage in facts.results.values() for name in _directions(stage))
        rows = [
            [arrow(direction), stage, *(_figure(figures.get(metric)) for metric in metrics)]
            + [figures.get(count) for count in counts]
            for direction in directions
            for stage, by_direction in facts.results.items()
            if (figures := _directions(by_direction).get(direction))
        ]
        heads = {"n": "queries", "documents": "documents"}
        parts.append(markdown_table(rows, ["direction", "model", *metrics, *(heads[count] for count in counts)]))
        rule = (
            "Every query is ranked against all documents; one that ties with the right one counts as ranked before it."
        )
        intervals = any(isinstance(cell, str) and "–" in cell for row in rows for cell in row[2:])
        parts.append(f"In parentheses: {facts.confidence:.0%} bootstrap intervals. " * intervals + rule)
    gains = [
        f"- {escape_markdown(arrow(direction))}: {escape_markdown(facts.gain_metric)} {gain['mean']:+.3f} "
        f"({gain['low']:+.3f} to {gain['high']:+.3f}), p {_p_value(gain['p_value'])}, paired over {gain['n']:.0f} queries"
        for direction, gain in facts.gains.items()
    ]
    if gains:
        parts.append("What training changed, on the same queries:")
        parts.append("\n".join(gains))
    if facts.contact_sheet is not None:
        parts.append(f"![Queries and their top results]({quote(facts.contact_sheet)})")
    return ["## Results", *parts] if parts else []


def _training_data(facts: CardFacts) -> dict[str, object]:
    named = {"data": ", ".join(facts.datasets)} if facts.datasets else {}
    return {**named, **facts.training_data}


def _data_hashes(facts: CardFacts) -> list[str]:
    table = _table(facts.data_hashes, "data", "SHA-256")
    # Without a heading of its own: it goes on with what is said of the training data.
    return [] if not table else [table] if _training_data(facts) else ["## Training data", table]


def _training(facts: CardFacts) -> list[str]:
    losses = "\n".join(f"- {escape_markdown(loss)}" for loss in facts.losses)
    shown = {key: value for key, value in facts.hyper_parameters.items() if not _SECRET.search(key)}
    command = f"The command:\n\n{_shell(facts.command)}" if facts.command else ""
    parts = [command, losses and f"Loss:\n\n{losses}", _table(shown, "hyper-parameter", "value")]
    return ["## Training", *parts] if any(parts) else []


def _shell(command: str) -> str:
    """A command in a fence that it cannot close, in one line, without anything that a template would run."""
    line = " ".join(_SECRET_WORD.sub(r"\1\2…", command).split())
    for sign in ("{{", "}}", "{%", "%}"):
        while sign in line:
            line = line.replace(sign, f"{sign[0]} {sign[1]}")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence}bash\n{line}\n{fence}"


def _section(heading: str, body: str) -> list[str]:
    return [f"## {heading}", body] if body else []


def _table(values: Mapping[str, object], *header: str) -> str:
    return markdown_table([[key, _shown(value)] for key, value in values.items()], header) if values else ""


def _shown(value: object) -> object:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _directions(stage: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: figures for name, figures in stage.items() if isinstance(figures, Mapping)}


def _metrics(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names = [name for stage in results.values() for figures in _directions(stage).values() for name in figures]
    return [name for name in dict.fromkeys(names) if name not in _COUNTS]


def _figure(figure: Any) -> str:
    if figure is None:
        return ""
    if isinstance(figure, Mapping):
        return f"{figure['mean']:.3f} ({figure['low']:.3f}–{figure['high']:.3f})"
    return f"{figure:.3f}"


def _p_value(value: float) -> str:
    return "&lt; 0.001" if value < 0.001 else f"= {value:.3f}"


def _base_models(facts: CardFacts) -> list[str]:
    bases = facts.base_model
    return [] if bases is None else [bases] if isinstance(bases, str) else list(bases)


def _is_hub_id(name: str) -> bool:
    # "runs/model" has the form of a Hub id too; what lies on this machine is none.
    return bool(HUB_ID.fullmatch(name)) and not os.path.exists(name)


def _without_folders(name: str) -> str:
    """A Hub id as it is; of a path the last part: the rest tells of somebody's machine."""
    return name if _is_hub_id(name) else re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _has_own_code(folder: Path) -> bool:
    """Whether transformers would have to run code that is saved with the model."""
    for file in [*folder.glob("config.json"), *folder.glob("*/config.json")]:
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not JSON ({error}): save the model again") from error
        if isinstance(config, dict) and config.get("auto_map"):
            return True
    return False


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            continue
    return found

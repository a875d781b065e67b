"""A pair of questions as a row that TRL trains on, and a table of them as a parquet file."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets import Dataset, Features, List, Value, load_dataset
from datasets import Image as ImageColumn

from mmembed.data.schema import DataError
from mmembed.interactive.candidate_views import CandidateViews, without_blocks
from mmembed.interactive.preference_checks import COLUMNS, undecoded
from mmembed.interactive.preference_filters import PreferencePair
from mmembed.interactive.preference_scores import PreferenceState, ScoredQuestion
from mmembed.interactive.question_prompt import INSTRUCTIONS, question_messages, reply_messages
from mmembed.interactive.questions import DialogueState
from mmembed.prompt_safety import control_tokens, neutralised
from mmembed.whole_files import write_whole

if TYPE_CHECKING:
    from PIL import Image

_MESSAGES = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})
_SIDES = ("chosen", "rejected")
#: Beside the four columns that TRL reads: how each pair came about. TRL leaves them out by itself.
PAIR_FEATURES = Features(
    {
        "prompt": _MESSAGES,
        "chosen": _MESSAGES,
        "rejected": _MESSAGES,
        "images": List(ImageColumn()),
        "state": Value("string"),
        "target": Value("string"),
        "target_key": Value("string"),
        "target_shown": Value("bool"),
        "query": Value("string"),
        "round": Value("int64"),
        "shown": List(Value("string")),
        "rank_before": Value("float64"),
        **{f"{side}_ranks_after": List(Value("float64")) for side in _SIDES},
        **{f"{side}_score": Value("float64") for side in _SIDES},
        **{f"{side}_gain": Value("float64") for side in _SIDES},
        **{f"{side}_gains_by_seed": List(Value("float64")) for side in _SIDES},
        **{f"{side}_information_gain": Value("float64") for side in _SIDES},
        **{f"{side}_attribute": Value("string") for side in _SIDES},
        **{f"{side}_answers": List(Value("string")) for side in _SIDES},
        **{f"{side}_provenance": Value("string") for side in _SIDES},
        "seed": Value("int64"),
    }
)


def preference_rows(
    pairs: Iterable[PreferencePair],
    states: Iterable[PreferenceState],
    views: CandidateViews,
    *,
    num_shown: int = 5,
    differ_in: Callable[[DialogueState], Sequence[str]] | None = None,
    instructions: str = INSTRUCTIONS,
    target_keys: dict[str, str] | None = None,
) -> Dataset:
    """Rows of TRL's conversational format for images, with how each pair came about beside it.

    The prompt is the very one that `VisionLanguageQuestioner` asks with: the candidates that are shown, the query, the
    dialogue, captions where `views` has them.

    Args:
        pairs: from `select_pairs`.
        states: the states of these pairs, and possibly others.
        views: pictures and captions of the candidates.
        num_shown: candidates that are seen at most.
        differ_in: what the candidates of a state may differ in, as the prompt tells it.
        instructions: what is asked for.
        target_keys: by target id, what makes two targets the same image; None: their ids.

    Returns:
        A table of `PAIR_FEATURES`, its images as encoded bytes.

    Raises:
        DataError: a pair whose state is not there.
        ImageError: a picture cannot be read.
    """
    by_key = {one.key: one for one in states}
    pairs = list(pairs)
    wanted = dict.fromkeys(pair.state.key for pair in pairs)
    for key in wanted:
        if key not in by_key:
            raise DataError(f"no state {key!r} for a pair of it", file="states")
    prompts = state_prompts(
        [by_key[key] for key in wanted], views, num_shown=num_shown, differ_in=differ_in, instructions=instructions
    )
    rows = []
    for pair in pairs:
        asked = prompts[pair.state.key]
        rows.append(
            {
                "prompt": asked.messages,
                "images": asked.images,
                "state": pair.state.key,
                "target": pair.state.target_id,
                "target_key": (target_keys or {}).get(pair.state.target_id, pair.state.target_id),
                "target_shown": pair.state.target_id in asked.shown,
                "query": by_key[pair.state.key].state.query,
                "round": by_key[pair.state.key].state.round,
                "shown": list(asked.shown),
                "rank_before": pair.state.rank,
                "seed": by_key[pair.state.key].state.seed,
                **_side("chosen", pair.chosen),
                **_side("rejected", pair.rejected),
            }
        )
    return Dataset.from_dict({name: [row[name] for row in rows] for name in PAIR_FEATURES}, features=PAIR_FEATURES)


@dataclass(frozen=True)
class StatePrompt:
    """What a model is asked in a state.

    Args:
        messages: the conversation, each block with the keys `type` and `text`.
        images: encoded, one for each image block.
        shown: ids of the candidates that are seen or called something.
    """

    messages: list[dict[str, Any]]
    images: list[dict[str, Any]]
    shown: Sequence[str]


def state_prompts(
    states: Iterable[PreferenceState],
    views: CandidateViews,
    *,
    num_shown: int = 5,
    differ_in: Callable[[DialogueState], Sequence[str]] | None = None,
    instructions: str = INSTRUCTIONS,
) -> dict[str, StatePrompt]:
    """The prompt of each state, as `VisionLanguageQuestioner` asks with it.

    Args:
        states, views, num_shown, differ_in, instructions: as of `preference_rows`.

    Returns:
        By the state's key.
    """
    encoded: dict[str, dict[str, Any]] = {}
    found = {}
    for one in states:
        seen, pictures, captions = views.shown(one.state, num_shown)
        options = differ_in(one.state) if differ_in is not None else ()
        (message,) = question_messages(seen, captions=captions, options=options, instructions=instructions)
        content = [_block(block) for block in without_blocks(message["content"], len(pictures))]
        for id, picture in zip(seen.shown, pictures):
            if id not in encoded:
                encoded[id] = {"bytes": _encoded(picture), "path": None}
        images = [encoded[id] for id in seen.shown[: len(pictures)]]
        found[one.key] = StatePrompt([{**message, "content": content}], images, seen.shown)
    return found


def prompt_rows(prompts: Mapping[str, StatePrompt]) -> Dataset:
    """Prompts alone as rows, for training by a reward.

    Args:
        prompts: by the state's key.

    Returns:
        Columns `prompt`, `images` and `state`.
    """
    features = Features({name: PAIR_FEATURES[name] for name in ("prompt", "images", "state")})
    columns = {
        "prompt": [one.messages for one in prompts.values()],
        "images": [one.images for one in prompts.values()],
        "state": list(prompts),
    }
    return Dataset.from_dict(columns, features=features)


def write_preference_rows(rows: Dataset, path: str | os.PathLike[str]) -> None:
    """Write pairs as a parquet file.

    Args:
        rows: of `PAIR_FEATURES`, or with TRL's four columns alone.
        path: the file, replaced where it exists.
    """
    write_whole(path, lambda new: rows.to_parquet(new))


def read_preference_rows(path: str | os.PathLike[str]) -> Dataset:
    """Read pairs from a parquet file, this one's or anybody's of TRL's format.

    Args:
        path: the file.

    Returns:
        The rows; images are encoded bytes within the file, none is read from elsewhere.

    Raises:
        DataError: it cannot be read, a column is missing, or an image is a path.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise DataError("there is no such file", file=path)
    try:
        rows = load_dataset("parquet", data_files=[path], split="train")
    except Exception as error:  # whatever datasets and pyarrow make of a damaged file
        raise DataError(f"not a parquet file of pairs: {str(error).splitlines()[0]:.200}", file=path) from None
    for column in COLUMNS:
        if column not in rows.column_names:
            raise DataError(f"no such column; found {rows.column_names}", file=path, field=column)
    try:
        rows = rows.cast_column("images", List(ImageColumn()))
    except (TypeError, ValueError) as error:
        raise DataError(f"no list of images: {str(error):.200}", file=path, field="images") from None
    for row, record in enumerate(undecoded(rows.select_columns(["images"]))):
        for image in record["images"]:
            if image.get("bytes") is None:
                message = (
                    "an image that is a path or an address; pairs hold their images' bytes, see write_preference_rows"
                )
                raise DataError(message, file=path, row=row, field="images")
    return rows


def plain_rows(rows: Dataset, processor: Any) -> Dataset:
    """TRL's four columns, in whose texts no control token of a processor is left whole.

    Args:
        rows: pairs.
        processor: of the model that is to be trained.

    Returns:
        The rows; untouched where no text spells a token.
    """
    rows = rows.select_columns(list(COLUMNS))
    tokens = control_tokens(processor)
    spelt = any(
        neutralised(block["text"] or "", tokens) != (block["text"] or "")
        for record in rows.remove_columns("images")
        for column in ("prompt", "chosen", "rejected")
        for message in record[column]
        for block in message["content"]
        if block["type"] == "text"
    )
    if not spelt:
        return rows

    def plain(record: dict[str, Any]) -> dict[str, Any]:
        return {
            column: [
                {
                    **message,
                    "content": [
                        {**block, "text": neutralised(block["text"] or "", tokens)}
                        if block["type"] == "text"
                        else block
                        for block in message["content"]
                    ],
                }
                for message in record[column]
            ]
            for column in ("prompt", "chosen", "rejected")
        }

    texts = rows.remove_columns("images").map(plain, load_from_cache_file=False)
    from datasets import concatenate_datasets

    return concatenate_datasets([texts, rows.select_columns(["images"])], axis=1)


def rows_sha256(rows: Dataset) -> str:
    """A fingerprint of what is trained on: the messages and the images' bytes, in their order."""
    digest = hashlib.sha256()
    for record in undecoded(rows.select_columns(list(COLUMNS))):
        texts = {column: record[column] for column in ("prompt", "chosen", "rejected")}
        digest.update(json.dumps(texts, sort_keys=True).encode())
        for image in record["images"]:
            digest.update(image.get("bytes") or str(image.get("path")).encode())
    return digest.hexdigest()


def _block(block: dict[str, Any]) -> dict[str, Any]:
    """With each key that Arrow gives to every block of a column; never one named `image`."""
    return {"type": block["type"], "text": block.get("text")}


def _side(name: str, found: ScoredQuestion) -> dict[str, Any]:
    question = found.question
    return {
        name: [
            {**message, "content": [_block(block) for block in message["content"]]}
            for message in reply_messages(question.text)
        ],
        f"{name}_ranks_after": list(found.ranks),
        f"{name}_score": found.score,
        f"{name}_gain": found.gain,
        f"{name}_gains_by_seed": list(found.gains),
        f"{name}_information_gain": found.information_gain,
        f"{name}_attribute": question.attribute,
        f"{name}_answers": [answer.text or answer.label for answer in found.answers],
        f"{name}_provenance": json.dumps(dict(question.provenance), ensure_ascii=False, default=str),
    }


def _encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=92)
    return stream.getvalue()

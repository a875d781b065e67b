"""What does the dialogue page play over? Items with attributes, a ranking by a model or by words, and a questioner."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset

from mmembed.data.catalogue.words import WORDS
from mmembed.embeddings import Embeddings
from mmembed.interactive.attribute_questioner import AttributeQuestioner
from mmembed.interactive.attribute_table import AttributeTable
from mmembed.interactive.belief import fit_temperature
from mmembed.interactive.question_wording import Wording
from mmembed.interactive.rankers import Ranker, TextRanker, VectorRanker
from mmembed.interactive.session import InteractiveSession
from mmembed.jobs.browse_options import BrowseOptions
from mmembed.jobs.browse_parts import PageParts, page_pipeline, read_page
from mmembed.jobs.options import OptionsError
from mmembed.search.index import Index
from mmembed.search.lexical import LexicalIndex
from mmembed.search.lexical_tokens import tokeniser_for

# What a person sees on a picture of the drawn catalogue, or is told beside it.
_SEEN = (
    "category", "subcategory", "colour", "second_colour", "pattern", "material", "gender", "age_group", "price_band", "adult",
    "details",
)  # fmt: skip
_WORDING = Wording(yes_no={"details": "Is this true of it: {value}?", "adult": "Is it for adults only: {value}?"})
_FITTED_ON, _FITTED_NUMBERS = 200, 20_000_000
_WORDS = 3  # of an item's text, that a search for it begins with


def dialogue_page_of(options: BrowseOptions) -> Any:
    """The page that the options describe.

    Args:
        options: what is played over.

    Returns:
        A `gradio.Blocks`.

    Raises:
        OptionsError: the items have no text to begin with, or are not those of the index.
        DataError: a file with a fault, or nothing that items differ in.
    """
    from mmembed.apps.dialogue.page import dialogue_page
    from mmembed.apps.item_cards import ItemCards

    parts = read_page(options)
    ranker = _ranker(options, parts)
    items = parts.items
    if items is None:
        raise OptionsError("--dialogue asks about attributes of items; name them by --items")
    unknown = set(ranker.ids) - set(items.with_format(None)["id"][:])
    if unknown:
        raise OptionsError(f"--items: {len(unknown):,} of what is ranked are no items, such as {min(unknown)!r:.80}")
    columns = options.columns or (list(_SEEN) if parts.is_catalogue else None)
    table = AttributeTable.from_items(items, columns)
    caption = captions_of(items, parts.is_catalogue)
    questioner = AttributeQuestioner(table, wording=_WORDING if parts.is_catalogue else Wording())
    session = InteractiveSession(
        ranker,
        questioner,
        temperature=_temperature(ranker, caption, options.seed),
        max_rounds=options.rounds,
        seed=options.seed,
    )
    shown = list(dict.fromkeys(slot.name.partition(".")[0] for slot in table.slots))
    cards = ItemCards(items, parts.reader, columns=shown, side=220)
    return dialogue_page(session, cards, caption=caption, about=parts.about, seed=options.seed)


def captions_of(items: Dataset, is_catalogue: bool) -> Callable[[str], str]:
    """What a search for an item begins with: little, so that there is something to ask.

    Args:
        items: ITEMS.
        is_catalogue: the drawn products, of which it is the kind of product, as the title calls it.

    Returns:
        A function of an id; an empty text where the item has none.

    Example:
        >>> captions_of(Dataset.from_dict({"id": ["a"], "text": ["red mug, round handle"]}), False)("a")
        'red mug round'
    """
    plain = items.with_format(None)
    rows = {id: row for row, id in enumerate(plain["id"][:])}
    none: list[str | None] = [None] * len(rows)
    texts: list[str | None] = plain["text"][:] if "text" in plain.column_names else none
    kinds: list[str | None] = plain["subcategory"][:] if is_catalogue else none

    def caption(id: str) -> str:
        row = rows.get(id)
        if row is None:
            return ""
        text, kind = texts[row] or "", kinds[row]
        if kind is not None:
            called = [word for language in WORDS[kind] for word in language.split("|")]
            named = [word for word in called if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)]
            return max(named, key=len, default=kind)
        words = (word.strip(",;.:()[]«»\"'") for word in text[:400].split())
        return " ".join([word for word in words if word][:_WORDS])

    return caption


def _ranker(options: BrowseOptions, parts: PageParts) -> Ranker:
    """By vectors where something was named that has them, else by words, which need no model."""
    if not (options.model or options.index or options.vectors or options.pipeline):
        assert parts.items is not None
        plain = parts.items.with_format(None)
        texts = plain["text"][:] if "text" in plain.column_names else []
        rows = [(id, text) for id, text in zip(plain["id"][:], texts) if text]
        if not rows:
            raise OptionsError("--model: the items have no texts; name a model that looks at their images")
        parts.about.append(("ranked by", "words"))
        sys.stdout.write(f"ranked by       the words of {len(rows):,} texts; --model ranks by vectors\n")
        texts = [text for _, text in rows]
        tokeniser = tokeniser_for(" ".join(texts[:200]))
        return TextRanker(
            LexicalIndex.build([id for id, _ in rows], texts, tokeniser=tokeniser, show_progress_bar=False)
        )
    pipeline = page_pipeline(options, parts)
    if pipeline.vectors is not None and pipeline.model is not None:
        return VectorRanker(pipeline.model, pipeline.vectors)
    if isinstance(pipeline.index, Index) and pipeline.model is not None:
        vectors = Embeddings(pipeline.index.ids, pipeline.index.vectors(pipeline.index.ids), pipeline.index.manifest)
        return VectorRanker(pipeline.model, vectors)
    if pipeline.lexical is not None:
        return TextRanker(pipeline.lexical)
    raise OptionsError("--dialogue ranks by vectors or words of whole items; this pipeline has neither")


def _temperature(ranker: Ranker, caption: Callable[[str], str], seed: int) -> float:
    """How far a ranking by such a caption is to be trusted, fitted on captions of the items themselves."""
    ids = list(ranker.ids)
    wanted = min(len(ids), _FITTED_ON, max(20, _FITTED_NUMBERS // len(ids)))
    rows = np.random.default_rng(seed).permutation(len(ids))[:wanted].tolist()
    captions = [(row, text) for row in rows if (text := caption(ids[row]))]
    if not captions:
        raise OptionsError("--items: none has a text that a search could begin with")
    ahead = getattr(ranker, "encode_ahead", None)
    if ahead is not None:
        ahead([text for _, text in captions])
    scores = [ranker.scores(text, []) for _, text in captions]
    return fit_temperature(scores, [row for row, _ in captions])

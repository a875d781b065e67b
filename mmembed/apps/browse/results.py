"""How do results look? Cards with rank and score, a line of times, and the indexes side by side; all texts escaped."""

from __future__ import annotations

from collections.abc import Sequence

from mmembed.apps.browse.compared_vectors import Compared
from mmembed.apps.browse.searching import LISTED, Ask, Found
from mmembed.apps.item_cards import ItemCards, Shown, data_uri, frame
from mmembed.evaluation.page_images import thumbnail_bytes
from mmembed.evaluation.page_text import escaped
from mmembed.search.hits import Hit

_STAGES = {"lexical": "words", "dense": "vectors", "rescored": "exact", "reranked": "reranker"}
_SCORES = {"lexical": "BM25", "dense": "cosine", "fused": "fused", "rescored": "exact", "reranked": "reranker"}


def result_grid(
    hits: Sequence[Hit], items: Sequence[Shown], cards: ItemCards, marks: Sequence[int], *, follows: bool
) -> str:
    """Results as cards.

    Args:
        hits: best first.
        items: what is shown of each.
        cards: draws what stands below a picture.
        marks: of each 1 where it was marked as right, −1 as wrong, else 0.
        follows: whether results can be followed, so that they have buttons for it.

    Returns:
        HTML.
    """
    if not hits:
        return '<div class="mm"><p class="grey">Nothing found. Take a filter away, or ask for something else.</p></div>'
    drawn = []
    for place, (hit, item, mark) in enumerate(zip(hits, items, marks, strict=True)):
        listed = hit.stage == LISTED
        rank = "" if listed else f'<span class="rank">{place + 1}</span>'
        drawn.append(
            f'<div class="card{" chosen" if mark > 0 else ""}">{rank}{frame(item)}<div class="about">{cards.about(item)}'
            f"{'' if listed else _score(hit)}</div>{_buttons(place, mark, item, listed) if follows else ''}</div>"
        )
    return f'<div class="mm"><div class="grid">{"".join(drawn)}</div></div>'


def status_line(found: Found, total: int) -> str:
    """How many items were found, and how long each step took: HTML."""
    facts = [f"<span><b>{len(found.hits):,}</b> shown of <b>{found.allowed:,}</b>{_of(found.allowed, total)}</span>"]
    facts += [f"<span>{escaped(name)} <b>{_milliseconds(seconds)}</b></span>" for name, seconds in found.seconds]
    return f'<div class="mm"><div class="facts">{"".join(facts)}</div></div>'


def vectors_table(compared: Sequence[Compared], chosen: str | None) -> str:
    """The indexes side by side: HTML, empty where there is one alone or nothing was asked.

    Args:
        compared: the indexes in one search.
        chosen: whose results are shown; None for the first.
    """
    if len(compared) < 2:
        return (
            '<div class="mm"><p class="grey">Ask for something, and each kind of vectors is timed beside the others.</p></div>'
            if not compared
            else ""
        )
    names = [one.name for one in compared]
    chosen = chosen if chosen in names else names[0]
    rows = []
    for one in compared:
        memory = "–" if one.memory_bytes is None else f"{one.memory_bytes:,.0f}"
        beside = f" + {one.mapped_bytes:,.0f} on disk" if one.mapped_bytes else ""
        rows.append(
            f"<tr{' class=on' if one.name == chosen else ''}><td>{escaped(one.name, 60)}</td>"
            f'<td class="number">{_milliseconds(one.seconds)}</td><td class="number">{memory}{beside}</td>'
            f'<td class="number">{one.same} of {one.of}</td></tr>'
        )
    head = "".join(f"<th{kind}>{name}</th>" for name, kind in (
        ("vectors", ""), ("this search", ' class="number"'), ("bytes each", ' class="number"'),
        (f"same results as {escaped(names[0], 30)}", ' class="number"'),
    ))  # fmt: skip
    return f'<div class="mm scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def chips(ask: Ask, named: Sequence[Shown]) -> str:
    """What is followed beside the query, with a button to leave it: HTML, empty where there is nothing.

    Args:
        ask: what is looked for.
        named: what is shown of the item that others shall be like, then of those that were marked.
    """
    if not named:
        return ""
    words = [*(["like"] if ask.like is not None else []), *["more like"] * len(ask.positives)]
    words += ["less like"] * len(ask.negatives)
    drawn = []
    for word, item in zip(words, named, strict=True):
        picture = f'<img alt="" src="{item.picture}">' if item.picture else ""
        drawn.append(f'<span class="chip">{word} {picture}<span dir="auto">{escaped(item.text, 60)}</span></span>')
    if ask.query is not None and ask.image is not None:
        picture = f'<img alt="" src="{data_uri(thumbnail_bytes(ask.image, 64))}">'
        drawn.insert(0, f'<span class="chip">the picture {picture}</span>')
    back = '<button type="button" data-act="anew">Clear</button>'
    return f'<div class="mm"><div class="chips">{"".join(drawn)}{back}</div></div>'


def example_buttons(examples: Sequence[str]) -> str:
    """Queries to begin with, as buttons: HTML."""
    buttons = (
        f'<button type="button" data-act="example" data-place="{place}">{escaped(text, 60)}</button>'
        for place, text in enumerate(examples)
    )
    return f'<div class="mm"><div class="chips"><span class="grey">try</span>{"".join(buttons)}</div></div>'


def _score(hit: Hit) -> str:
    score = f"<b>{hit.score:.3f}</b> {_SCORES.get(hit.stage, hit.stage)}"
    placed = [f"{_STAGES[stage]} {rank}" for stage, rank in hit.ranks.items() if stage in _STAGES]
    ranks = f" · {' · '.join(placed)}" if len(hit.ranks) > 1 else ""
    return f'<div class="score">{score}{ranks}</div>'


def _buttons(place: int, mark: int, item: Shown, listed: bool) -> str:
    name = escaped(item.text, 60)
    more = f'<button type="button" class="wide" data-act="like" data-place="{place}">Similar</button>'
    if listed:
        return f'<div class="acts">{more}</div>'
    marks = (("right", "+", "more like", mark > 0), ("wrong", "−", "less like", mark < 0))
    return (
        f'<div class="acts">{more}'
        + "".join(
            f'<button type="button" data-act="{act}" data-place="{place}" aria-pressed="{str(on).lower()}" '
            f'title="{word} this" aria-label="{word} {name}">{sign}</button>'
            for act, sign, word, on in marks
        )
        + "</div>"
    )


def _milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.2f} ms"


def _of(allowed: int, total: int) -> str:
    return f" that meet the filters, of {total:,}" if allowed != total else ""

"""How does a dialogue look? What is looked for, the question, the ranking, and the way of the target's rank; all escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmembed.apps.dialogue.play import Candidate, Play
from mmembed.apps.item_cards import ItemCards, Shown, facts, frame
from mmembed.evaluation.page_text import escaped

_ENDS = {
    "first": "Found: it stands first.",
    "picked": "Found: you picked it.",
    "left": "You ended it.",
    "uninformative": "No question would tell more.",
    "budget": "All questions are used up.",
    "confident": "It is sure enough.",
}
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 540, 210, 46, 24, 34
_INSET = 30  # between the axis and the first point


def target_view(item: Shown | None, *, playing: bool) -> str:
    """What the person looks for: HTML.

    Args:
        item: what was drawn; None where the person chooses secretly.
        playing: whether a dialogue is under way, so that nothing else can be drawn.
    """
    buttons = "" if playing else (
        '<div class="chips"><button type="button" data-act="another">Another one</button>'
        f'<button type="button" data-act="secret">{"Show me one" if item is None else "I choose secretly"}</button></div>'
    )  # fmt: skip
    if item is None:
        told = "<h2>Think of something that is in here</h2><p>Answer for it, and say when you see it.</p>"
        return f'<div class="mm"><p class="eyebrow">you are looking for</p>{told}{buttons}</div>'
    return (
        f'<div class="mm"><p class="eyebrow">you are looking for</p><div class="target">{frame(item)}<div>'
        f'<h2 dir="auto">{escaped(item.text, 160)}</h2>{facts(item)}</div></div>{buttons}</div>'
    )


def question_view(play: Play | None, unknown: str, target: Shown | None, told: str = "") -> str:
    """The question and its options as buttons, or how it ended: HTML.

    Args:
        play: the dialogue; None before there is one.
        unknown: what somebody says who cannot answer.
        target: what was looked for, which is revealed at the end; None where nobody said what that is.
        told: a line above it.
    """
    above = f'<p class="notice" role="alert">{escaped(told, 300)}</p>' if told else ""
    if play is None:
        return (
            f'<div class="mm">{above}<div class="ask"><p class="text">Say in a few words what you look for, and begin.</p>'
            '<p class="grey">You are then asked what tells the candidates apart. The more you answer, the further up it moves.'
            "</p></div></div>"
        )
    if play.outcome is not None:
        return _end(play, target)
    question = play.question
    assert question is not None
    options = "".join(
        f'<button type="button" data-act="option" data-place="{place}" dir="auto">{escaped(text, 80)}</button>'
        for place, text in enumerate(question.options)
    )
    least = f'<button type="button" class="quiet" data-act="unknown">{escaped(unknown, 40)}</button>'
    left = '<button type="button" class="quiet" data-act="leave">End it</button>'
    number = f"question {len(play.turns) + 1} of at most {play.session.max_rounds}"
    return (
        f'<div class="mm">{above}<div class="ask"><p class="eyebrow">{number}</p>'
        f'<p class="text" dir="auto">{escaped(question.text, 200)}</p><div class="options">{options}{least}{left}</div></div></div>'
    )


def ranking_view(candidates: Sequence[Candidate], cards: ItemCards, play: Play) -> str:
    """The best candidates with their ranks, beliefs and moves: HTML."""
    drawn = []
    items = cards.shown([one.id for one in candidates])
    for place, (one, item) in enumerate(zip(candidates, items, strict=True)):
        is_target = one.id == play.target_id
        pick = ""
        if play.can_pick:
            pick = (
                f'<div class="acts"><button type="button" class="wide" data-act="pick" data-place="{place}" '
                f'aria-label="this is it: {escaped(item.text, 60)}">This is it</button></div>'
            )
        drawn.append(
            f'<div class="card{" chosen" if is_target else ""}"><span class="rank">{one.rank}</span>{frame(item)}'
            f'<div class="about">{cards.about(item)}{_belief(one)}</div>{pick}</div>'
        )
    spread = f"{len(play.session.rows):,} candidates"
    head = f'<div class="facts"><span><b>{len(candidates)}</b> best of {spread}</span></div>'
    return f'<div class="mm">{head}<div class="grid">{"".join(drawn)}</div></div>'


def history_view(play: Play) -> str:
    """What was asked and answered, and where the target stood after each answer: HTML."""
    rows = [f"<tr><td>0</td><td><bdi>“{escaped(play.query, 100)}”</bdi></td><td></td>{_rank_cell(play, 0)}</tr>"]
    for number, turn in enumerate(play.turns, 1):
        answer = turn.answer.text or "–"
        rows.append(
            f'<tr><td>{number}</td><td><bdi dir="auto">{escaped(turn.question.text, 120)}</bdi></td>'
            f'<td><bdi dir="auto">{escaped(answer, 80)}</bdi></td>{_rank_cell(play, number)}</tr>'
        )
    head = '<tr><th></th><th>asked</th><th>answered</th><th class="number">rank of what you look for</th></tr>'
    table = f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    plot = rank_plot(play.ranks) if len(play.ranks) > 1 else ""
    return f'<div class="mm">{table}{plot}</div>'


def rank_plot(ranks: Sequence[float]) -> str:
    """The way of a rank over the rounds, on a logarithmic scale with 1 at the top: SVG.

    Args:
        ranks: by the query alone and after each answer.

    Example:
        >>> rank_plot([100.0, 1.0]).count("<circle")
        2
    """
    highest = max(10.0, *ranks)
    wide, high = _WIDTH - _LEFT - _INSET - 24, _HEIGHT - _TOP - _BOTTOM

    def x(number: int) -> float:
        return _LEFT + _INSET + wide * number / max(1, len(ranks) - 1)

    def y(rank: float) -> float:
        return _TOP + high * math.log(rank) / math.log(highest)

    parts = []
    tick = 1
    while tick <= highest:
        parts.append(
            f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - 24}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,}</text>'
        )
        tick *= 10
    points = [(x(number), y(rank)) for number, rank in enumerate(ranks)]
    parts.append(f'<polyline class="line" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>')
    for number, ((a, b), rank) in enumerate(zip(points, ranks)):
        # above the line, but for the best ones, which have no room there
        below = b < _TOP + 14
        parts.append(
            f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="4.5"/>'
            f'<text class="value" x="{a:.1f}" y="{b + (19 if below else -10):.1f}" text-anchor="middle">{shown_rank(rank)}</text>'
            f'<text x="{a:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{number if number else "query"}</text>'
        )
    label = f"rank from {shown_rank(ranks[0])} to {shown_rank(ranks[-1])} in {len(ranks) - 1} answers"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def shown_rank(rank: float) -> str:
    """A rank in words; halves are those of ties.

    Example:
        >>> shown_rank(1.0), shown_rank(1204.5)
        ('1', '1,204.5')
    """
    return f"{rank:,.0f}" if rank == int(rank) else f"{rank:,.1f}"


def _end(play: Play, target: Shown | None) -> str:
    asked = len(play.turns)
    told = f"<p class='text'>{_ENDS[play.outcome or 'left']}</p>"
    if play.ranks:
        told += (
            f"<p>Its rank went from <b>{shown_rank(play.ranks[0])}</b> to <b>{shown_rank(play.ranks[-1])}</b> of "
            f"{len(play.session.rows):,} in {asked} answer{'' if asked == 1 else 's'}.</p>"
        )
    elif play.can_pick:
        told += "<p>Say which one it was, and see how it came up.</p>"
    if target is not None:
        told += f'<div class="revealed">{frame(target)}<p dir="auto">{escaped(target.text, 160)}</p></div>'
    again = '<div class="options"><button type="button" data-act="again">Play again</button></div>'
    return f'<div class="mm"><div class="ask"><p class="eyebrow">the end</p>{told}{again}</div></div>'


def _belief(one: Candidate) -> str:
    moved = ""
    if one.is_new:
        moved = ' <span class="up">new</span>'
    elif one.moved:
        way, arrow = ("up", "↑") if one.moved > 0 else ("down", "↓")
        moved = f' <span class="{way}">{arrow} {abs(one.moved)}</span>'
    if one.belief is None:
        return f'<div class="score">–{moved}</div>'
    share = f"{one.belief:.0%}" if one.belief >= 0.01 else "&lt; 1%"
    return (
        f'<div class="score"><b>{share}</b> likely{moved}</div>'
        f'<div class="belief"><i style="width:{100 * one.belief:.1f}%"></i></div>'
    )


def _rank_cell(play: Play, number: int) -> str:
    shown = shown_rank(play.ranks[number]) if number < len(play.ranks) else "?"
    return f'<td class="number">{shown}</td>'

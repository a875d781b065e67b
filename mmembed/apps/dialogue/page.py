"""The dialogue page: a person answers, sees the candidates move, and at the end how what was looked for came up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmembed.apps.clicks import CLICKS, event_handler
from mmembed.apps.dialogue.play import Play
from mmembed.apps.dialogue.views import history_view, question_view, ranking_view, target_view
from mmembed.apps.item_cards import ItemCards
from mmembed.data.keys import pick
from mmembed.data.schema import DataError
from mmembed.evaluation.page_text import escaped
from mmembed.interactive.question_wording import Wording
from mmembed.interactive.session import InteractiveSession

_QUERY, _ANSWER = 300, 200  # characters
_CANDIDATES = 12


@dataclass(frozen=True)
class _Visit:
    """Where one visitor is."""

    drawn: int = 0
    secret: bool = False
    play: Play | None = None


def dialogue_page(
    session: InteractiveSession,
    cards: ItemCards,
    *,
    caption: Callable[[str], str],
    title: str = "A search that asks back",
    about: Sequence[tuple[str, str]] = (),
    seed: int = 0,
) -> Any:
    """The page.

    Args:
        session: ranks and asks.
        cards: draws the candidates.
        caption: id of an item → the few words that a search for it begins with, as a suggestion.
        title: of the page.
        about: names and values for its head.
        seed: of what is looked for.

    Returns:
        A `gradio.Blocks`, for `mmembed.apps.page_server`.

    Raises:
        ImportError: Gradio is not installed.
    """
    import gradio

    ids = list(session.ranker.ids)
    wording: Wording = getattr(session.questioner, "wording", None) or Wording()
    options: dict[str, Any] = {"preprocess": False, "api_visibility": "private", "concurrency_id": "dialogue"}

    def target(visit: _Visit) -> str | None:
        if visit.secret:
            return None
        return ids[pick(len(ids), seed=seed, epoch=visit.drawn, id="target", salt="dialogue page")]

    def shown(visit: _Visit, told: str = "", query: str | None = None) -> tuple[Any, ...]:
        """Everything on the page."""
        play, wanted = visit.play, target(visit)
        item = None if wanted is None else cards.shown([wanted])[0]
        if item is None and play is not None and play.outcome is not None and play.target_id is not None:
            item = cards.shown([play.target_id])[0]
        asked = play is not None and play.question is not None
        ranking = ranking_view(play.top(_CANDIDATES), cards, play) if play is not None else ""
        history = history_view(play) if play is not None else ""
        first_words: dict[str, Any] = {"interactive": not asked}
        if play is None or query is not None:  # once a dialogue has begun, they stay
            first_words["value"] = query if query is not None else ("" if wanted is None else caption(wanted))
        return (
            target_view(item, playing=play is not None and play.outcome is None),
            gradio.update(**first_words),
            gradio.update(interactive=not asked),
            question_view(play, wording.unknown, item, told),
            gradio.update(visible=asked),
            gradio.update(value=""),
            ranking,
            history,
            visit,
        )

    def began(query: Any, visit: _Visit) -> tuple[Any, ...]:
        words = query[:_QUERY] if isinstance(query, str) else ""
        if visit.play is not None and visit.play.outcome is None:
            return shown(visit)
        try:
            play = Play(session, words, f"visit {visit.drawn}", target(visit))
        except DataError:
            return shown(replace(visit, play=None), "nothing is found with these words; try others", words)
        except ValueError:
            return shown(replace(visit, play=None), "say in a few words what you look for", words)
        return shown(replace(visit, play=play), query=words)

    def said(words: Any, visit: _Visit) -> tuple[Any, ...]:
        if visit.play is not None and isinstance(words, str):
            visit.play.say(words[:_ANSWER])
        return shown(visit)

    def acted(visit: _Visit, act: str, place: int) -> tuple[Any, ...]:
        play = visit.play
        if act in ("another", "again", "secret") and (play is None or play.outcome is not None):
            secret = not visit.secret if act == "secret" else visit.secret and act == "again"
            return shown(_Visit(visit.drawn + (act != "secret"), secret))
        told = ""
        if play is not None and act == "option":
            play.choose(place)
        elif play is not None and act == "unknown":
            play.skip()
        elif play is not None and act == "leave":
            play.leave()
        elif play is not None and act == "pick":
            best = play.top(_CANDIDATES)
            if 0 <= place < len(best) and play.can_pick and not play.pick(best[place].id):
                told = "that is another one than you were shown"
        return shown(visit, told)

    first = shown(_Visit())
    with gradio.Blocks(title=title, analytics_enabled=False, fill_width=True) as blocks:
        gradio.HTML(_header(title, len(ids), about), elem_id="about")
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                wanted = gradio.HTML(first[0], elem_id="target", js_on_load=CLICKS)
                query = gradio.Textbox(
                    caption(target(_Visit()) or ""),
                    label="What you say first",
                    max_length=_QUERY,
                    lines=1,
                    elem_id="query",
                )
                begin = gradio.Button("Begin", variant="primary", elem_id="begin")
            with gradio.Column(scale=3, min_width=320):
                question = gradio.HTML(first[3], elem_id="question", js_on_load=CLICKS)
                with gradio.Row(visible=False, elem_id="free") as free:
                    words = gradio.Textbox(
                        label="Or in your own words",
                        placeholder="Or in your own words",
                        show_label=False,
                        container=False,
                        max_length=_ANSWER,
                        lines=1,
                        scale=4,
                        min_width=200,
                        elem_id="words",
                    )
                    say = gradio.Button("Answer", scale=1, min_width=100, elem_id="say")
                history = gradio.HTML("", elem_id="history")
        ranking = gradio.HTML("", elem_id="ranking", js_on_load=CLICKS)
        state = gradio.State(_Visit())

        outputs = [wanted, query, begin, question, free, words, ranking, history, state]
        options.update(show_progress="minimal", show_progress_on=[ranking])
        for start in (begin.click, query.submit):
            start(began, [query, state], outputs, **options)
        for answer in (say.click, words.submit):
            answer(said, [words, state], outputs, **options)
        for part in (wanted, question, ranking):
            part.act(event_handler(acted), [state], outputs, **options)
    return blocks


def _header(title: str, count: int, about: Sequence[tuple[str, str]]) -> str:
    facts = [("items", f"{count:,}"), *about]
    told = "".join(f"<span>{escaped(name, 40)} <b>{escaped(value, 120)}</b></span>" for name, value in facts)
    return f'<div class="mm"><h1>{escaped(title, 80)}</h1><div class="facts">{told}</div></div>'

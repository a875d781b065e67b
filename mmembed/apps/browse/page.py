"""The search page: a text, a picture or both; results as a grid; filters, more of the same, and what compression costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmembed.apps.browse.filter_controls import FilterControl, conditions, filter_controls
from mmembed.apps.browse.results import chips, example_buttons, result_grid, status_line, vectors_table
from mmembed.apps.browse.searching import Ask, PageSearch
from mmembed.apps.clicks import CLICKS, event_handler
from mmembed.apps.item_cards import ItemCards
from mmembed.apps.uploaded_picture import UploadError, uploaded_picture
from mmembed.evaluation.page_text import escaped
from mmembed.search.filters import FilterError
from mmembed.search.queries import QueryError

_TEXT = 1000  # characters of a query
_COUNTS = (12, 24, 48, 96)  # results


@dataclass(frozen=True)
class _Session:
    """What one visitor looks at."""

    ask: Ask = field(default_factory=Ask)
    shown: tuple[str, ...] = ()


def browse_page(
    search: PageSearch,
    cards: ItemCards,
    *,
    title: str = "Browse",
    about: Sequence[tuple[str, str]] = (),
    examples: Sequence[str] = (),
    k: int = 24,
) -> Any:
    """The page.

    Args:
        search: finds items.
        cards: draws them.
        title: of the page.
        about: what it shows, as names and values, such as ("model", "runs/train/model").
        examples: queries to begin with.
        k: results at first.

    Returns:
        A `gradio.Blocks`, for `mmembed.apps.page_server`.

    Raises:
        ImportError: Gradio is not installed.
    """
    import gradio
    from gradio.utils import get_upload_folder

    controls = filter_controls(cards.items, cards.columns)
    upload_dir = get_upload_folder()
    options: dict[str, Any] = {"preprocess": False, "api_visibility": "private", "concurrency_id": "search"}
    session = _Session()
    first = _answer(search, cards, controls, session, None, k, None, None, True, [])
    with gradio.Blocks(title=title, analytics_enabled=False, fill_width=True) as blocks:
        gradio.HTML(_header(title, search, about), elem_id="about")
        with gradio.Row(equal_height=True):
            text = gradio.Textbox(
                label="What are you looking for?",
                placeholder="What are you looking for?",
                show_label=False,
                container=False,
                max_length=_TEXT,
                lines=1,
                scale=6,
                min_width=240,
                elem_id="text",
            )
            go = gradio.Button("Search", variant="primary", scale=1, min_width=110, elem_id="go")
        examples_row = gradio.HTML(
            example_buttons(examples), js_on_load=CLICKS, visible=bool(examples), elem_id="examples"
        )
        with gradio.Row():
            image = gradio.Image(
                label="Picture",
                type="filepath",
                sources=["upload", "clipboard"],
                height=150,
                scale=2,
                min_width=240,
                visible=search.reads_images,
                elem_id="image",
                buttons=[],
            )
            with gradio.Column(scale=5, min_width=280):
                with gradio.Row():
                    name = gradio.Radio(
                        search.names,
                        value=search.names[0] if search.names else None,
                        label="Vectors",
                        visible=len(search.names) > 1,
                        elem_id="vectors",
                        min_width=240,
                        scale=2,
                    )
                    way = gradio.Radio(
                        search.ways,
                        value=search.ways[0] if search.ways else None,
                        label="Search by",
                        visible=bool(search.ways),
                        elem_id="way",
                        min_width=240,
                        scale=2,
                    )
                    many = sorted({*_COUNTS, min(k, _COUNTS[-1])})
                    count = gradio.Dropdown(
                        many, value=min(k, _COUNTS[-1]), label="Results", elem_id="count", min_width=110, scale=1
                    )
                rerank = gradio.Checkbox(True, label="Rerank", visible=search.reranks, elem_id="rerank")
                compared = gradio.HTML(first[1], elem_id="compared")
        filled: list[Any] = []
        if controls:
            with gradio.Accordion("Filters", open=False, elem_id="filters"), gradio.Row():
                for control in controls:
                    filled += _inputs(gradio, control)
        status = gradio.HTML(first[0], elem_id="status", js_on_load=CLICKS)
        results = gradio.HTML(first[2], elem_id="results", js_on_load=CLICKS, min_height=400)
        state = gradio.State(first[3])

        inputs = [image, text, state, count, name, way, rerank, *filled]
        outputs = [status, compared, results, state]
        options.update(show_progress="minimal", show_progress_on=[results])

        def answer(session: _Session, picture_notice: str | None, values: Sequence[Any]) -> tuple[Any, ...]:
            many, name, way, rerank, *given = values[3:]
            return _answer(search, cards, controls, session, picture_notice, many, name, way, rerank, given)

        def asked(*values: Any) -> tuple[Any, ...]:
            """What was typed and dropped is looked for anew."""
            try:
                picture, told = uploaded_picture(values[0], upload_dir), None
            except UploadError as error:
                picture, told = None, str(error)
            words = values[1][:_TEXT] if isinstance(values[1], str) else ""
            return answer(replace(values[2], ask=Ask(words, picture)), told, values)

        def changed(*values: Any) -> tuple[Any, ...]:
            """The same is looked for in another way."""
            return answer(values[2], None, values)

        def acted(*values: Any) -> tuple[Any, ...]:
            """A button of a result was pressed; what and which stand behind the inputs."""
            *values, act, place = values  # type: ignore[assignment]
            ask, told = _acted(values[2], act, place, search)
            return answer(replace(values[2], ask=ask), told, values)

        def exampled(*values: Any) -> tuple[Any, ...]:
            """An example was chosen."""
            *values, _, place = values  # type: ignore[assignment]
            words = examples[place] if 0 <= place < len(examples) else ""
            return (words, *answer(replace(values[2], ask=Ask(words)), None, values))

        image.change(asked, inputs, outputs, **options)
        for trigger in (go.click, text.submit):
            # what comes while a search runs is looked for after it, and not lost
            trigger(asked, inputs, outputs, trigger_mode="always_last", **options)
        for control in (count.change, name.change, way.change, rerank.change, *(one.change for one in filled)):
            control(changed, inputs, outputs, trigger_mode="always_last", **options)
        for part in (results, status):
            part.act(event_handler(acted), inputs, outputs, **options)
        examples_row.act(event_handler(exampled), inputs, [text, *outputs], **options)
    return blocks


def _acted(session: _Session, act: str, place: int, search: PageSearch) -> tuple[Ask, str | None]:
    """What is looked for once a button was pressed, and what to say."""
    ask = session.ask
    if act == "anew":
        return replace(ask, like=None, positives=(), negatives=()), None
    if not 0 <= place < len(session.shown):
        return ask, None
    id = session.shown[place]
    if not search.has_vector(id):
        return ask, "this item has no vector; nothing can be like it"
    if act == "like":
        return Ask(like=id), None
    rest = [tuple(one for one in marked if one != id) for marked in (ask.positives, ask.negatives)]
    # a second press of the same button takes the mark away
    if act == "right":
        return replace(ask, positives=rest[0] + (id,) * (id not in ask.positives), negatives=rest[1]), None
    if act == "wrong":
        return replace(ask, positives=rest[0], negatives=rest[1] + (id,) * (id not in ask.negatives)), None
    return ask, None


def _answer(
    search: PageSearch,
    cards: ItemCards,
    controls: Sequence[FilterControl],
    session: _Session,
    told: str | None,
    many: Any,
    name: Any,
    way: Any,
    rerank: Any,
    given: Sequence[Any],
) -> tuple[str, str, str, _Session]:
    """What the page shows: the line above the results, the table of vectors, the grid, and the session after it."""
    k = min(_COUNTS[-1], max(1, many)) if type(many) is int else _COUNTS[1]
    ask = session.ask
    try:
        filters = conditions(controls, given) if given else {}
        found = search.search(ask, k, filters=filters, name=_word(name), way=_word(way), rerank=rerank is not False)
    except (QueryError, FilterError) as error:
        return _notice(str(error)), "", "", replace(session, shown=())
    ids = [hit.id for hit in found.hits]
    items = cards.shown(ids)
    marks = [(id in ask.positives) - (id in ask.negatives) for id in ids]
    named = cards.shown([one for one in (ask.like, *ask.positives, *ask.negatives) if one is not None])
    return (
        (_notice(told) if told else "") + chips(ask, named) + status_line(found, len(search)),
        vectors_table(found.compared, _word(name)),
        result_grid(found.hits, items, cards, marks, follows=search.follows),
        _Session(ask, tuple(ids)),
    )


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _notice(text: str) -> str:
    return f'<div class="mm"><p class="notice" role="alert">{escaped(text, 300)}</p></div>'


def _header(title: str, search: PageSearch, about: Sequence[tuple[str, str]]) -> str:
    facts = [("items", f"{len(search):,}"), *about]
    told = "".join(f"<span>{escaped(name, 40)} <b>{escaped(value, 120)}</b></span>" for name, value in facts)
    return f'<div class="mm"><h1>{escaped(title, 80)}</h1><div class="facts">{told}</div></div>'


def _inputs(gradio: Any, control: FilterControl) -> list[Any]:
    """Gradio's inputs of a control; their labels are texts to it, and no markup."""
    name = control.column.replace("_", " ")
    options = {"min_width": 170, "elem_classes": ["filter"]}
    if control.kind == "choice":
        return [gradio.Dropdown(list(control.choices), multiselect=True, label=name, **options)]
    if control.kind == "truth":
        return [gradio.Dropdown(["any", "yes", "no"], value="any", label=name, **options)]
    ends = (("from", control.low), ("to", control.high))
    # a text: Gradio's input of numbers has no empty state, and an end that nobody gave would be 0
    return [
        gradio.Textbox(label=f"{name} {word}", placeholder=f"{end:.6g}", max_length=40, **options) for word, end in ends
    ]

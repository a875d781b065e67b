"""How does a click on something that we draw reach Python? As what is to be done, and with the how-manieth of what is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Script of a `gradio.HTML`: its buttons have `data-act`, and `data-place` where it matters; its event is called `act`.
CLICKS = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-act]');
  if (button) trigger('act', {act: button.dataset.act, place: Number(button.dataset.place || 0)});
});
"""


def event_handler(function: Callable[..., Any]) -> Callable[..., Any]:
    """A listener of `act`.

    Args:
        function: takes the values of the inputs, then what is to be done, a word, and the place, −1 where it is none.

    Returns:
        What Gradio calls: it hands the event to a parameter that is annotated as one.
    """
    import gradio

    def called(event: Any, *values: Any) -> Any:
        data = event._data if isinstance(event._data, dict) else {}
        place = data.get("place")
        return function(*values, str(data.get("act")), place if type(place) is int else -1)

    called.__annotations__["event"] = gradio.EventData
    return called

"""Pairs of questions about drawn products, labelled by what they tell about five candidates, and a small model to train on them.

A state is a dialogue over the products of one part of the catalogue: somebody asked for a kind of product, and perhaps a few
questions were answered. The best five candidates are shown. Of two questions for yes or no, that one is chosen whose answer is
expected to tell more about which of the five is meant (they count alike, and answers are truthful). The pairs are balanced: two
questions stand as often in one order as in the other, so that their texts alone decide nothing.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmembed.jobs.option_errors import as_option_errors, check_names
from mmembed.jobs.options import OptionsError
from mmembed.jobs.questioner_loop import ShownAttributes, play_loop

if TYPE_CHECKING:
    from datasets import Dataset

    from mmembed.interactive.answerers import AttributeAnswerer
    from mmembed.interactive.preference_scores import PreferenceState, ScoredQuestion
    from mmembed.interactive.session import InteractiveSession
    from mmembed.interactive.simulation import Task
    from mmembed.jobs.dpo_options import DpoOptions

#: Arguments of TRL's trainer where nothing else is said.
TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "num_train_epochs": 1.0,
    "beta": 0.1,
}
#: What the prompt asks for: the usual instructions would be three quarters of all tokens of a small model's prompt.
INSTRUCTIONS = "Ask one question."


@dataclass
class CatalogueQuestions:
    """What is drawn, and how the small model is taught.

    Args:
        products: drawn in all; their families fall into train, validation and test.
        size: side of a picture in pixels.
        attributes: columns that are asked about.
        states: training states.
        held_out_states: states to measure on.
        after_rounds: after how many answers a dialogue is a state.
        pairs_per_state: pairs of one state at most.
        min_margin: least difference of what two questions tell, in nats.
        part: "validation" to choose settings on, "test" to report.
        captions: also write into the prompt what each candidate is: its attributes in words.
        see_steps, see_rate: of `teach_to_see`.
        ask_steps, ask_rate: of `teach_to_ask`.
        hidden_size, layers, image_hidden_size, image_layers: of the model.
        seed: of everything drawn.
    """

    products: int = 8000
    size: int = 56
    attributes: Sequence[str] = ("colour",)
    states: int = 2000
    held_out_states: int = 1000
    after_rounds: Sequence[int] = (0, 1, 2)
    pairs_per_state: int = 2
    min_margin: float = 0.1
    part: str = "test"
    captions: bool = False
    see_steps: int = 1000
    see_rate: float = 3e-3
    ask_steps: int = 300
    ask_rate: float = 4e-3
    hidden_size: int = 64
    layers: int = 2
    image_hidden_size: int = 48
    image_layers: int = 2
    seed: int = 0
    train_part: str = field(default="train", init=False)


def catalogue_run(options: DpoOptions, out: Path) -> tuple[Dataset, Dataset, str]:
    """Drawn pairs and the small model of a run; those of an interrupted one are read again.

    Args:
        options: `catalogue` says what is drawn, `model` names another model.
        out: folder of the run.

    Returns:
        Training pairs, held-out pairs, and the folder or name of the model.
    """
    check_names("catalogue", options.catalogue, CatalogueQuestions)
    with as_option_errors():
        drawn = CatalogueQuestions(**options.catalogue)
    if drawn.part not in ("validation", "test"):
        raise OptionsError(f"--catalogue.part {drawn.part!r}: validation, to choose settings on, or test")
    from mmembed.interactive.preference_rows import read_preference_rows, write_preference_rows
    from mmembed.jobs.model_choice import resolve_name
    from mmembed.whole_files import write_whole

    folder = out / "catalogue"
    told = json.dumps(dataclasses.asdict(drawn), indent=1, sort_keys=True)
    record, base = folder / "settings.json", folder / "base"
    if not (record.is_file() and record.read_text(encoding="utf-8") == told):
        parts = catalogue_parts(drawn, (drawn.train_part, drawn.part), cache_dir=folder / "drawn")
        for name, file in ((drawn.train_part, "train"), (drawn.part, "held_out")):
            write_preference_rows(parts[name].pairs(), folder / f"{file}.parquet")
        if options.model is None:
            write_whole(base, lambda new: make_model(drawn, parts[drawn.train_part], new))
        write_whole(record, lambda new: Path(new).write_text(told, encoding="utf-8"))
    train, held_out = (read_preference_rows(folder / f"{name}.parquet") for name in ("train", "held_out"))
    return train, held_out, str(base) if options.model is None else resolve_name(options.model)


class CataloguePart:
    """The products of one part, what is known of them, and dialogues over them.

    Args:
        drawn: what is drawn.
        items: ITEMS of the part.
        name: of the part.
    """

    def __init__(self, drawn: CatalogueQuestions, items: Dataset, name: str) -> None:
        from mmembed.interactive.answer_channel import AnswerChannel
        from mmembed.interactive.attribute_questioner import AttributeQuestioner
        from mmembed.interactive.attribute_table import AttributeTable
        from mmembed.jobs.dialogue_parts import captions_of

        self.drawn, self.items, self.name = drawn, items, name
        self.table = AttributeTable.from_items(items, list(drawn.attributes), min_count=1)
        self.asks = AttributeQuestioner(
            self.table, AnswerChannel.of_noise(len(self.table.attributes), error=0.0, unknown=0.0), kinds=("yes_no",)
        )
        self.query_of = captions_of(items, True)
        self._states: dict[int, list[PreferenceState]] = {}

    def session(self, rounds: int, questioner: Any = None) -> InteractiveSession:
        """A search by words, the best five of which are shown; None asks about any attribute of those."""
        from mmembed.interactive.rankers import TextRanker
        from mmembed.interactive.session import InteractiveSession
        from mmembed.search.lexical import LexicalIndex

        texts = [text or "" for text in self.items["text"][:]]
        index = LexicalIndex.build(self.items["id"][:], texts, show_progress_bar=False)
        return InteractiveSession(
            TextRanker(index),
            questioner or ShownAttributes(self.asks),
            likelihood=self.asks,
            temperature=2.0,
            max_rounds=rounds,
            seed=self.drawn.seed,
        )

    def states(self, count: int) -> list[PreferenceState]:
        """Dialogues about drawn targets, at the wanted rounds; played once."""
        from mmembed.interactive.preference_states import dialogue_states

        if count not in self._states:
            rounds = sorted(set(self.drawn.after_rounds))
            wanted = self.tasks(-(-count // max(len(rounds), 1)))
            found = dialogue_states(self.session(rounds[-1]), wanted, self.answerer(), after_rounds=rounds)
            self._states[count] = found[:count]
        return self._states[count]

    def tasks(self, count: int) -> list[Task]:
        """Products to look for, each by the kind of product that it is."""
        from mmembed.data.keys import permutation
        from mmembed.interactive.simulation import Task

        ids = self.items["id"][:]
        order = permutation(len(ids), self.drawn.seed, 0).tolist()
        return [Task(ids[row], ids[row], self.query_of(ids[row])) for row in order if self.query_of(ids[row])][:count]

    def answerer(self) -> AttributeAnswerer:
        """Who knows what is true of each product."""
        from mmembed.interactive.answerers import AttributeAnswerer

        return AttributeAnswerer(self.table, seed=self.drawn.seed)

    def loop(
        self, models: Mapping[str, Any], *, dialogues: int, rounds: int, samples: int, quiet: bool
    ) -> dict[str, Any]:
        """Dialogues with models that choose among questions about what is shown, beside who chooses any of them, and beside
        `AttributeQuestioner`, which knows all candidates' attributes."""
        from mmembed.interactive.vision_language_questioner import VisionLanguageQuestioner

        shown = ShownAttributes(self.asks)
        items, captions = self.told(), "told" if self.drawn.captions else None
        questioners: dict[str, Any] = {
            name: VisionLanguageQuestioner(
                model, items, caption_column=captions, candidates=shown.questions, instructions=INSTRUCTIONS
            )
            for name, model in models.items()
        }
        return play_loop(
            lambda questioner: self.session(rounds, questioner),
            self.tasks(dialogues),
            self.answerer(),
            {**questioners, "any of the shown": shown, "attributes": self.asks},
            first="trained",
            rounds=rounds,
            samples=samples,
            seed=self.drawn.seed,
            show_progress_bar=not quiet,
        )

    def pairs(self) -> Dataset:
        """Pairs labelled by what questions tell about the candidates that are shown."""
        from mmembed.interactive.candidate_views import CandidateViews
        from mmembed.interactive.preference_filters import PairRule, select_pairs
        from mmembed.interactive.preference_rows import preference_rows
        from mmembed.interactive.preference_scores import ScoredState

        drawn = self.drawn
        count = drawn.states if self.name == drawn.train_part else drawn.held_out_states
        states = self.states(count)
        rule = PairRule(
            min_chosen=-1.0,
            min_margin=drawn.min_margin,
            max_rejected=9.0,
            min_agreeing_seeds=0,
            max_per_state=10**6,
            max_per_template=None,
            balance_texts=True,
        )
        scored = [
            ScoredState(f"{one.key}/{number}", one.target_id, float("nan"), pair)
            for one in states
            for number, pair in enumerate(self.two_and_two(one))
        ]
        pairs, _ = select_pairs(scored, rule)
        of_pairs = {f"{one.key}/{number}": one for one in states for number in range(drawn.pairs_per_state)}
        named = [dataclasses.replace(of_pairs[pair.state.key], key=pair.state.key) for pair in pairs]
        views = CandidateViews(self.told(), caption_column="told" if drawn.captions else None)
        return preference_rows(pairs, named, views, instructions=INSTRUCTIONS)

    def two_and_two(self, one: PreferenceState) -> list[tuple[ScoredQuestion, ScoredQuestion]]:
        """Some two questions of a state, each time one about something that is shown, and what each of them tells."""
        from mmembed.interactive.attribute_questioner import binary_entropy
        from mmembed.interactive.preference_scores import ScoredQuestion

        held = self.table.filled(self.table.rows(list(one.state.shown))).astype(np.float64)
        gains = binary_entropy(held.mean(axis=0))
        asked = {turn.question.attribute for turn in one.state.turns}
        free = [place for place, attribute in enumerate(self.table.attributes) if attribute not in asked]
        there = [place for place in free if held[:, place].any()]
        rng = np.random.default_rng([self.drawn.seed, *one.key.encode()])
        found: list[tuple[ScoredQuestion, ScoredQuestion]] = []
        for _ in range(30):
            if len(found) == self.drawn.pairs_per_state or not there:
                break
            first = there[int(rng.integers(len(there)))]
            among = there if rng.random() < 0.7 else free
            second = among[int(rng.integers(len(among)))]
            if first == second or abs(gains[first] - gains[second]) < self.drawn.min_margin:
                continue
            sides = []
            for place in (first, second):
                question = self.asks.yes_no_question(self.table.attributes[place], None, {"questioner": "drawn"})
                gain = float(gains[place])
                sides.append(ScoredQuestion(question, gain, float("nan"), (), gain, (), ()))
            found.append((sides[0], sides[1]))
        return found

    def told(self) -> Dataset:
        """The items with a column of their attributes in words."""
        rows = self.items.select_columns(list(self.drawn.attributes)).with_format(None)
        words = [" ".join(str(row[name]) for name in self.drawn.attributes if row[name] is not None) for row in rows]
        return self.items.select_columns(["id", "image"]).add_column("told", words)


def catalogue_parts(
    drawn: CatalogueQuestions, names: Sequence[str], *, cache_dir: Path | None = None
) -> dict[str, CataloguePart]:
    """The products of some parts of the drawn catalogue.

    Args:
        drawn: what is drawn.
        names: of the parts.
        cache_dir: where the drawing is kept.
    """
    from datasets import Image

    from mmembed.data.catalogue import demo_catalogue

    products = demo_catalogue(
        products=drawn.products, photos=1, size=drawn.size, seed=drawn.seed, cache_dir=cache_dir
    ).products
    as_stored = products.cast_column("image", Image(decode=False))  # else each picture is decoded and encoded anew
    found = {}
    for name in names:
        rows = [row for row, part in enumerate(products["split"][:]) if part == name]
        if not rows:
            raise OptionsError(
                f"--catalogue.products {drawn.products}: none of them falls into the part {name!r}; draw more"
            )
        found[name] = CataloguePart(drawn, as_stored.select(rows).flatten_indices().cast_column("image", Image()), name)
    return found


def make_model(drawn: CatalogueQuestions, part: CataloguePart, folder: str) -> None:
    """Build the small model, teach it to see and to ask, and save it.

    Args:
        drawn: sizes and steps.
        part: the training part.
        folder: where it goes.
    """
    import torch

    from mmembed.interactive.candidate_views import CandidateViews
    from mmembed.interactive.preference_rows import state_prompts
    from mmembed.interactive.small_model_teaching import LabelledPictures, TaughtState, teach_to_ask, teach_to_see
    from mmembed.interactive.small_vision_language import build_small_vision_language
    from mmembed.interactive.vision_language_loading import load_vision_language

    table = part.table
    questions = {
        slot.name: [part.asks.wording.yes_no_text(slot.name, value) for value in slot.values] for slot in table.slots
    }
    texts = [text for slot in questions.values() for text in slot] * 10
    texts += [INSTRUCTIONS, "<<<query dialogue captions >>>\nQ: \nA: yes\nQ: \nA: no\n1: \n2: \n3: \n4: \n5: "] * 20
    texts += [part.query_of(id) for id in part.items["id"][:]] + (part.told()["told"][:] if drawn.captions else [])
    build_small_vision_language(
        folder,
        texts,
        image_size=drawn.size,
        scale_factor=drawn.size // 14,
        vocab_size=900,
        hidden_size=drawn.hidden_size,
        layers=drawn.layers,
        image_hidden_size=drawn.image_hidden_size,
        image_layers=drawn.image_layers,
        seed=drawn.seed,
    )
    loaded = load_vision_language(folder, device="cpu")
    views = CandidateViews(part.told(), caption_column="told" if drawn.captions else None)
    ids = part.items["id"][:]
    pixels = np.stack([np.asarray(views.image(id)) for id in ids])
    columns = {slot.name: place for place, slot in enumerate(table.slots)}
    labels = {name: _values(table, table.slots[place].name) for name, place in columns.items()}
    pictures = LabelledPictures(pixels, labels, questions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(drawn.seed)
        seen = teach_to_see(
            loaded.model,
            loaded.processor,
            pictures,
            steps=drawn.see_steps,
            learning_rate=drawn.see_rate,
            seed=drawn.seed,
        )
        states = part.states(drawn.states)
        row_of = {id: row for row, id in enumerate(ids)}
        prompts = state_prompts(states, views, instructions=INSTRUCTIONS)
        taught = [
            TaughtState(
                loaded.processor.apply_chat_template(
                    prompts[one.key].messages, add_generation_prompt=True, tokenize=False
                ),
                tuple(row_of[id] for id in one.state.shown),
                _settled(one),
            )
            for one in states
        ]
        distance = teach_to_ask(
            loaded.model,
            loaded.processor,
            pictures,
            taught,
            steps=drawn.ask_steps,
            learning_rate=drawn.ask_rate,
            seed=drawn.seed,
        )
    told = ", ".join(f"{name} {share:.2f}" for name, share in seen.items())
    sys.stdout.write(
        f"taught to see   {told} of training pictures told right\ntaught to ask   {distance:.2f} nats from what is shown\n"
    )
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)


def _values(table: Any, slot: str) -> np.ndarray:
    """int64 (items,): the number of each item's value, −1 where it is not known."""
    held = table.probabilities(np.arange(len(table)))[:, table.slices[slot]]
    unknown = np.isnan(held).any(axis=1) | ~(held > 0.5).any(axis=1)
    return np.where(unknown, -1, np.nan_to_num(held).argmax(axis=1)).astype(np.int64)


def _settled(one: PreferenceState) -> frozenset[str]:
    """Slots whose value was said."""
    return frozenset(
        (turn.question.attribute or "").partition("=")[0] for turn in one.state.turns if turn.answer.label == "yes"
    )


def catalogue_loop(
    options: DpoOptions, out: Path, models: Mapping[str, Any], *, dialogues: int, rounds: int, quiet: bool
) -> dict[str, Any]:
    """Play dialogues over the held-out part with the models of a run.

    Args:
        options: of the run.
        out: its folder.
        models: `VisionLanguageModel`s by name, "trained" among them.
        dialogues: how many.
        rounds: questions in each.
        quiet: show no bar.

    Returns:
        As of `play_loop`.
    """
    drawn = CatalogueQuestions(**options.catalogue)
    part = catalogue_parts(drawn, (drawn.part,), cache_dir=out / "catalogue" / "drawn")[drawn.part]
    return part.loop(models, dialogues=dialogues, rounds=rounds, samples=options.bootstrap_samples, quiet=quiet)

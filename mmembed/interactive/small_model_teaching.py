"""What does a small new vision-language model have to know before it can learn to prefer? To see, and to ask about what it sees.

Published models learnt both from millions of pictures. A model of some hundred thousand weights learns from labelled pictures
of one catalogue in minutes: first its vision tower and connector, as a classifier of attributes; then its language model, to
ask about a value as often as the candidates that it is shown have it. That is no good way to ask (what all of them have tells
nothing), and it is what preference training begins with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from tqdm.auto import tqdm
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mmembed.data.keys import permutation
from mmembed.interactive.question_prompt import reply_messages


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures whose attributes are known.

    Args:
        pixels: uint8 (n, side, side, 3).
        labels: by slot, int (n,): the number of each picture's value, −1 where it is not known.
        questions: by slot, the question about each of its values.
    """

    pixels: NDArray[np.uint8]
    labels: Mapping[str, NDArray[np.int64]]
    questions: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class TaughtState:
    """A prompt to ask in.

    Args:
        prompt: the conversation as the chat template writes it, with one placeholder for each picture.
        rows: the pictures' rows.
        settled: slots that need not be asked about any more.
    """

    prompt: str
    rows: tuple[int, ...]
    settled: frozenset[str] = frozenset()


def teach_to_see(
    model: Any,
    processor: Any,
    pictures: LabelledPictures,
    *,
    steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    seed: int = 0,
    show_progress_bar: bool = True,
) -> dict[str, float]:
    """Train vision tower and connector to tell attributes, through linear classifiers that are thrown away.

    Args:
        model: from `build_small_vision_language`.
        processor: its processor.
        pictures: what is learnt from.
        steps: of AdamW, with a cosine schedule.
        batch_size: pictures a step; those of half the steps are mirrored.
        learning_rate: the highest.
        seed: of the order and of the classifiers.
        show_progress_bar: show a bar.

    Returns:
        By slot, the share of the last 20 steps' pictures that were told right.
    """
    inner, width = model.model, model.config.text_config.hidden_size
    pixels = _pixel_values(processor, pictures.pixels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = torch.nn.ModuleDict(
            {
                f"slot{number}": torch.nn.Linear(width, len(texts))
                for number, texts in enumerate(pictures.questions.values())
            }
        )
    labels = {
        f"slot{number}": torch.from_numpy(pictures.labels[slot]) for number, slot in enumerate(pictures.questions)
    }
    learning = [*inner.vision_model.parameters(), *inner.connector.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=learning_rate, weight_decay=0.05)
    right: dict[str, list[float]] = {name: [] for name in heads}
    rng = np.random.default_rng(seed)
    model.train()
    for step, rows in _batches(len(pixels), batch_size, steps, seed, "seeing", show_progress_bar):
        _set_rate(optimizer, learning_rate, step, steps)
        shown = pixels[rows].flip(-1) if rng.random() < 0.5 else pixels[rows]
        hidden = inner.connector(inner.vision_model(pixel_values=shown).last_hidden_state).mean(1)
        seen = functional.rms_norm(hidden, (width,))  # (batch, width)
        loss = torch.zeros(())
        for name, head in heads.items():
            wanted, logits = labels[name][rows], head(seen)
            loss = loss + functional.cross_entropy(logits, wanted, ignore_index=-1)
            right[name].append(float((logits.argmax(-1) == wanted)[wanted >= 0].float().mean()))
        _step(optimizer, learning, loss)
    model.eval()
    return {slot: float(np.mean(right[f"slot{number}"][-20:])) for number, slot in enumerate(pictures.questions)}


def teach_to_ask(
    model: Any,
    processor: Any,
    pictures: LabelledPictures,
    states: Sequence[TaughtState],
    *,
    steps: int = 600,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
    show_progress_bar: bool = True,
) -> float:
    """Train the language model to ask about each slot alike, and about a value as often as the pictures have it.

    Vision tower and connector stay as they were taught, so that each picture goes through them once, and cannot be learnt by
    heart. Each step's prompts show the first one
    to five of their pictures; where the value begins, the model is taught the shares of all values at once and not one that
    was drawn.

    Args:
        model: that has been taught to see.
        processor: its processor.
        pictures: what is shown.
        states: what is asked in.
        steps: of AdamW, with a cosine schedule.
        batch_size: prompts a step.
        learning_rate: the highest.
        seed: of the draws.
        show_progress_bar: show a bar.

    Returns:
        The mean divergence of the taught shares from the model's over the last 20 steps, in nats.

    Raises:
        ValueError: two questions of a slot that begin with the same tokens up to where others differ.
    """
    tokens = _Tokens(processor, pictures.questions)
    looks = _looks(model, processor, pictures.pixels)
    learning = [*model.model.text_model.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=learning_rate, weight_decay=0.05)
    rng = np.random.default_rng(seed)
    distances = []
    model.train()
    for step, chosen in _batches(len(states), batch_size, steps, seed, "asking", show_progress_bar):
        _set_rate(optimizer, learning_rate, step, steps)
        batch = [states[place] for place in chosen.tolist()]
        count = min(int(rng.integers(1, 6)), min(len(one.rows) for one in batch))
        prompts, replies, shares, places = [], [], [], []
        for one in batch:
            slot, values = _asked_about(one, pictures, one.rows[:count], rng)
            prompt = tokens.prompt(one.prompt, count)
            prompts.append(prompt)
            replies.append(tokens.replies[slot][int(values[rng.integers(len(values))])])
            places.append(len(prompt) + tokens.differs[slot])
            share = torch.zeros(tokens.vocabulary)
            for value in values.tolist():
                share[tokens.replies[slot][value][tokens.differs[slot]]] += 1 / len(values)
            shares.append(share)
        ids, mask, completion = _padded(prompts, replies, tokens.pad)
        rows = torch.tensor([one.rows[:count] for one in batch]).flatten()
        features = looks[int(rng.integers(len(looks)))][rows]  # (batch · count, tokens, hidden)
        hidden = model.model(
            input_ids=ids,
            attention_mask=mask,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features.flatten(0, 1))},
            use_cache=False,
        ).last_hidden_state[:, :-1]
        wanted = completion[:, 1:]
        scores = torch.log_softmax(model.lm_head(hidden[wanted]).float(), dim=-1)  # (tokens, vocabulary)
        rows_of, columns = wanted.nonzero(as_tuple=True)
        soft = columns == torch.tensor(places)[rows_of] - 1
        own = scores.gather(1, ids[:, 1:][wanted][:, None])[:, 0]
        taught = torch.stack(shares)
        cross = -(taught * scores[soft]).sum(1)
        loss = (cross.sum() - own[~soft].sum()) / len(batch)
        _step(optimizer, learning, loss)
        entropy = -(taught * taught.clamp_min(1e-12).log()).sum(1)
        distances.append(float((cross.detach() - entropy).mean()))
    model.eval()
    return float(np.mean(distances[-20:])) if distances else math.nan


def _asked_about(
    one: TaughtState, pictures: LabelledPictures, rows: Sequence[int], rng: np.random.Generator
) -> tuple[str, NDArray[np.int64]]:
    """A slot that is not settled, and the values of it that pictures have, each as often as they have it."""
    slots = list(pictures.questions)
    known = {slot: pictures.labels[slot][list(rows)] for slot in slots}
    free = [slot for slot in slots if slot not in one.settled and (known[slot] >= 0).any()]
    if not free:
        return slots[0], np.zeros(1, dtype=np.int64)
    slot = free[int(rng.integers(len(free)))]
    return slot, known[slot][known[slot] >= 0]


def _looks(model: Any, processor: Any, pixels: NDArray[np.uint8]) -> list[torch.Tensor]:
    """What the language model is shown of pictures, and of the same mirrored: (n, tokens, hidden) each."""
    inner, values = model.model, _pixel_values(processor, pixels)
    with torch.no_grad():
        return [
            torch.cat(
                [inner.connector(inner.vision_model(pixel_values=part).last_hidden_state) for part in seen.split(256)]
            )
            for seen in (values, values.flip(-1))
        ]


class _Tokens:
    """Prompts and replies as tokens, without putting a picture through the processor each time."""

    def __init__(self, processor: Any, questions: Mapping[str, Sequence[str]]) -> None:
        from PIL import Image

        self.processor, self.tokenizer = processor, processor.tokenizer
        self.pad, self.vocabulary = self.tokenizer.pad_token_id, len(self.tokenizer)
        blank = Image.new("RGB", (8, 8))
        self.placeholder = str(processor.image_token)
        self.image = processor(text=[self.placeholder], images=[[blank]], add_special_tokens=False)["input_ids"][0]
        self._known: dict[str, list[int]] = {}
        self.replies = {slot: [self._reply(text) for text in texts] for slot, texts in questions.items()}
        self.differs = {slot: _first_difference(slot, replies) for slot, replies in self.replies.items()}

    def prompt(self, text: str, count: int) -> list[int]:
        """The tokens of a prompt that shows so many pictures."""
        pieces = text.split(self.placeholder)
        kept = [*pieces[:count], "".join(pieces[count:])] if count < len(pieces) - 1 else pieces
        ids: list[int] = []
        for number, piece in enumerate(kept):
            if piece not in self._known:
                self._known[piece] = self.tokenizer(piece, add_special_tokens=False)["input_ids"]
            ids += [*(self.image if number else []), *self._known[piece]]
        return ids

    def _reply(self, question: str) -> list[int]:
        asked = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        before = self.processor.apply_chat_template([asked], add_generation_prompt=True, tokenize=False)
        whole = self.processor.apply_chat_template([asked, *reply_messages(question)], tokenize=False)
        ids: list[int] = self.tokenizer(whole.removeprefix(before), add_special_tokens=False)["input_ids"]
        return ids


def _first_difference(slot: str, replies: Sequence[Sequence[int]]) -> int:
    """The place where the questions of a slot begin to differ; from there on each must be another token."""
    place = next((at for at, column in enumerate(zip(*replies)) if len(set(column)) > 1), 0)
    beginnings = [reply[place] for reply in replies]
    if len(set(beginnings)) < len(beginnings):
        raise ValueError(f"questions about {slot!r} begin alike; give the tokenizer more words (vocab_size)")
    return place


def _pixel_values(processor: Any, pixels: NDArray[np.uint8]) -> torch.Tensor:
    """float32 (n, 3, side, side), as the processor makes them."""
    parts = []
    for start in range(0, len(pixels), 256):
        made = processor.image_processor([[one] for one in pixels[start : start + 256]], return_tensors="pt")
        parts.append(made["pixel_values"][:, 0])
    return torch.cat(parts)


def _padded(prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, ...]:
    """Ids, attention mask, and where the reply stands: (batch, longest)."""
    longest = max(len(prompt) + len(reply) for prompt, reply in zip(prompts, replies))
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    completion = torch.zeros((len(prompts), longest), dtype=torch.bool)
    for row, (prompt, reply) in enumerate(zip(prompts, replies)):
        length = len(prompt) + len(reply)
        ids[row, :length] = torch.tensor([*prompt, *reply])
        mask[row, :length] = 1
        completion[row, len(prompt) : length] = True
    return ids, mask, completion


def _batches(rows: int, size: int, steps: int, seed: int, what: str, show: bool) -> Any:
    """(step, rows) by a new order in each epoch."""
    if rows < 1 or size < 1 or steps < 0:
        raise ValueError(f"{rows} rows, batch_size={size}, steps={steps}; at least 1, 1 and 0")
    order, epoch = np.zeros(0, dtype=np.int64), 0
    for step in tqdm(range(steps), desc=what, unit="step", disable=not show):
        while len(order) < size:
            order = np.concatenate([order, permutation(rows, seed, epoch)])
            epoch += 1
        yield step, torch.from_numpy(order[:size].copy())
        order = order[size:]


def _set_rate(optimizer: torch.optim.Optimizer, highest: float, step: int, steps: int) -> None:
    """A short warm-up, then half a cosine."""
    for group in optimizer.param_groups:
        group["lr"] = highest * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _step(optimizer: torch.optim.Optimizer, parameters: list[Any], loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()

"""A vision-language model that runs here: what it replies, and how likely it finds a reply."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmembed.models.folder_checks import ModelError
from mmembed.prompt_safety import control_tokens

#: What `question_messages` and the like make: "role" and "content" of texts and of bare image blocks.
Messages = Sequence[Mapping[str, Any]]


class VisionLanguageModel:
    """A transformers model of images and texts with its processor, which is asked by messages.

    Args:
        model: a model with `generate`; a `PeftModel` around one too.
        processor: its processor of images and texts, with a chat template.
        name: what it is called in records; None: the folder or name that it was loaded from.
        revision: of it, for records.
        adapter: the folder of the adapter on it, for records.
        batch_size: prompts a forward pass when replies are weighed.

    Raises:
        ModelError: a processor that is none of images and texts, as where one needs torchvision, or has no chat template.

    Example:
        >>> import tempfile
        >>> from mmembed.interactive.small_vision_language import build_small_vision_language
        >>> from mmembed.interactive.vision_language_loading import load_vision_language
        >>> model = load_vision_language(build_small_vision_language(tempfile.mkdtemp(), ["a red mug"]), device="cpu")
        >>> messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a mug?"}]}]
        >>> red = Image.new("RGB", (40, 40), "red")
        >>> len(model.replies(messages, [red], samples=2, temperature=1.0, max_new_tokens=4))
        2
        >>> sums, tokens = model.log_probabilities(messages, [red], ["a red mug", "a"])
        >>> bool(sums[0] < sums[1] < 0), bool(tokens[0] > tokens[1])
        (True, True)
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str | None = None,
        revision: str | None = None,
        adapter: str | None = None,
        batch_size: int = 4,
    ) -> None:
        self.name = name or getattr(model.config, "name_or_path", "") or type(model).__name__
        self.revision, self.adapter, self.batch_size = revision, adapter, batch_size
        check_processor(processor, self.name)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; at least one prompt goes through a forward pass")
        self.model, self.processor = model.eval(), processor
        self.control_tokens = control_tokens(processor)
        tokenizer = processor.tokenizer
        self._special_ids = set(tokenizer.convert_tokens_to_ids(self.control_tokens)) & {
            *tokenizer.all_special_ids,
            *(id for id, token in tokenizer.added_tokens_decoder.items() if token.special),
        }

    @property
    def record(self) -> dict[str, Any]:
        """What a record says of the model: its name, revision and adapter."""
        return {"model": self.name, "revision": self.revision, "adapter": self.adapter}

    def replies(
        self,
        messages: Messages,
        images: Sequence[Image.Image] = (),
        *,
        samples: int = 1,
        seed: int = 0,
        temperature: float = 0.0,
        top_p: float = 0.95,
        max_new_tokens: int = 48,
    ) -> list[str]:
        """What the model says.

        Args:
            messages: the conversation, with a bare image block for each image, in order.
            images: RGB.
            samples: how many replies are drawn.
            seed: of the draws; the global generators are left as they are.
            temperature: 0: the likeliest reply, which needs no draw; else replies are drawn, and flatter the higher it is.
            top_p: replies are drawn from the likeliest tokens that together have this probability.
            max_new_tokens: the longest reply.

        Returns:
            `samples` texts, each up to its first control token.

        Raises:
            ModelError: a template that shows another number of images, or a prompt longer than the model has positions for.
        """
        import torch

        if samples < 1 or temperature < 0 or not 0 < top_p <= 1 or max_new_tokens < 1:
            raise ValueError(
                f"samples={samples}, temperature={temperature}, top_p={top_p}, max_new_tokens={max_new_tokens}; "
                "at least 1, from 0, above 0 and at most 1, at least 1"
            )
        drawn = samples if temperature else 1
        inputs = self._inputs([self.prompt(messages, len(images))], [images])
        copies = 1
        if drawn > 1 and any(value.shape[:1] != (1,) for value in inputs.values()):
            # transformers repeats each row of a tensor; rows that are images or patches of one prompt would be mixed.
            copies, inputs = drawn, self._inputs([self.prompt(messages, len(images))] * drawn, [images] * drawn)
        length = inputs["input_ids"].shape[1]
        self._check_length(length + max_new_tokens)
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature:
            how = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
            how["num_return_sequences"] = drawn // copies
        with torch.no_grad(), _seeded(seed, self.model.device):
            output = self.model.generate(
                **inputs,
                **how,
                max_new_tokens=max_new_tokens,
                num_beams=1,
                pad_token_id=self._pad_id(),
            )
        texts = [self._text(row) for row in output[:, length:].tolist()]
        return texts if temperature else texts * samples

    def log_probabilities(
        self, messages: Messages, images: Sequence[Image.Image], replies: Sequence[str], *, with_adapter: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """How likely the model finds replies, the end of its turn included.

        Args:
            messages: the conversation, as `replies` takes it.
            images: RGB.
            replies: n texts, as plain words: control tokens in them are not taken apart here.
            with_adapter: False asks the model below its adapter, the reference of preference training.

        Returns:
            ln P(reply | messages, images), float64 (n,), and the number of tokens of each, int64 (n,).

        Raises:
            ModelError: as `replies`; or the adapter is to be left out and there is none.
        """
        import torch

        prompt = self.prompt(messages, len(images))
        ended = self._ended(messages, prompt, replies)
        sums, counts = np.zeros(len(replies)), np.zeros(len(replies), dtype=np.int64)
        prompt_ids = self._inputs([prompt], [images])["input_ids"][0].tolist()
        with torch.no_grad(), self._below_adapter(not with_adapter):
            for start in range(0, len(replies), self.batch_size):
                batch = ended[start : start + self.batch_size]
                inputs = self._inputs(batch, [images] * len(batch), side="right")
                self._check_length(inputs["input_ids"].shape[1])
                logits = self.model(**inputs).logits[:, :-1]  # (batch, length - 1, vocabulary)
                for row, (ids, mask) in enumerate(zip(inputs["input_ids"].tolist(), inputs["attention_mask"])):
                    first = _common_length(prompt_ids, ids)
                    last = self._end(ids, first, int(mask.sum()))
                    scores = torch.log_softmax(logits[row, first - 1 : last - 1].float(), dim=-1)
                    own = scores.gather(1, inputs["input_ids"][row, first:last, None])
                    sums[start + row], counts[start + row] = float(own.cpu().double().sum()), last - first
        return sums, counts

    def prompt(self, messages: Messages, images: int) -> str:
        """The conversation as the chat template writes it, up to where the reply begins.

        Args:
            messages: the conversation.
            images: how many images it must show.

        Raises:
            ModelError: it shows another number.
        """
        rendered = self.processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        named = ("image_token", "boi_token")
        marks = [str(mark) for name in named if (mark := getattr(self.processor, name, None))]
        if marks and images not in (found := [rendered.count(mark) for mark in marks]):
            raise ModelError(f"the chat template of {self.name} shows {max(found)} images, and {images} were given")
        return rendered

    def _inputs(
        self, prompts: Sequence[str], images: Sequence[Sequence[Image.Image]], side: str = "left"
    ) -> dict[str, Any]:
        """Tensors of prompts, each with its images, on the model's device."""
        tokenizer = self.processor.tokenizer
        before = tokenizer.padding_side, tokenizer.pad_token
        # A template writes its own beginning of a text, and a tokenizer would write another.
        twice = bool(tokenizer.bos_token) and prompts[0].startswith(tokenizer.bos_token)
        try:
            tokenizer.padding_side = side
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
            made = self.processor(
                text=list(prompts),
                images=[list(one) for one in images] if any(images) else None,
                padding=len(prompts) > 1,
                return_tensors="pt",
                **({"add_special_tokens": False} if twice else {}),
            )
        except ImportError as error:
            raise ModelError(needs_torchvision(self.name, error)) from None
        finally:
            tokenizer.padding_side, tokenizer.pad_token = before
        made = made.to(self.model.device, dtype=self.model.dtype)
        return {name: made[name] for name in made if hasattr(made[name], "shape")}

    def _ended(self, messages: Messages, prompt: str, replies: Sequence[str]) -> list[str]:
        """The prompt with each reply as the template writes it, which is how a trainer saw it."""
        texts = []
        for reply in replies:
            said = {"role": "assistant", "content": [{"type": "text", "text": reply}]}
            whole = self.processor.apply_chat_template([*messages, said], tokenize=False)
            # Templates that take thoughts out of past turns write other words before a reply than they end a prompt with.
            own = whole.startswith(prompt + reply)
            texts.append(whole if own else f"{prompt}{reply}{self.processor.tokenizer.eos_token}")
        return texts

    def _end(self, ids: list[int], first: int, length: int) -> int:
        """Behind the token that ends the reply; what a template writes after it is no part of the reply."""
        return next((place + 1 for place in range(first, length) if ids[place] in self._special_ids), length)

    def _text(self, ids: list[int]) -> str:
        start = next((place for place, id in enumerate(ids) if id not in self._special_ids), len(ids))
        stop = next((place for place in range(start, len(ids)) if ids[place] in self._special_ids), len(ids))
        return self.processor.tokenizer.decode(ids[start:stop]).strip()

    def _pad_id(self) -> int | None:
        tokenizer = self.processor.tokenizer
        return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def _check_length(self, length: int) -> None:
        config = self.model.config
        longest = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
        if longest is not None and length > longest:
            raise ModelError(
                f"a prompt and its reply of {length} tokens for the {longest} positions of {self.name}; show fewer or "
                "smaller images, or ask for shorter replies"
            )

    @contextlib.contextmanager
    def _below_adapter(self, below: bool) -> Iterator[None]:
        if below and not hasattr(self.model, "disable_adapter"):
            raise ModelError(f"{self.name} has no adapter that could be left out")
        with self.model.disable_adapter() if below else contextlib.nullcontext():
            yield


def check_processor(processor: Any, name: str) -> None:
    """Raise a ModelError for what is no processor of images and texts with one chat template."""
    from transformers import ProcessorMixin

    if not isinstance(processor, ProcessorMixin) or getattr(processor, "tokenizer", None) is None:
        raise ModelError(
            f"{name} has a {type(processor).__name__} and no processor of images and texts; that of some families "
            "(Qwen-VL, SmolVLM2, InternVL) needs torchvision, see the README"
        )
    if not isinstance(processor.chat_template, str):
        raise ModelError(f"{name} has no chat template, or several; nothing can be asked of it")


def needs_torchvision(name: str, error: Exception) -> str:
    """What is said where a processor cannot be made."""
    reason = str(error).strip().split("\n")[0]
    return (
        f"{name} has a processor that cannot be made here ({reason:.200}); where it is torchvision that it needs, choose a "
        "family that does without (Idefics3, LLaVA, Gemma 3), or install it beside a torch that it fits"
    )


@contextlib.contextmanager
def _seeded(seed: int, device: Any) -> Iterator[None]:
    """`generate` takes no generator: the global ones are set for as long as it draws, and put back."""
    import torch

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _common_length(first: list[int], second: list[int]) -> int:
    for place, (a, b) in enumerate(zip(first, second)):
        if a != b:
            return place
    return min(len(first), len(second))

"""How likely does a vision-language model answer "yes" to a query and a candidate? Its probability, as a `CrossEncoder`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.util import load_file_path
from torch import nn
from transformers import AutoConfig, AutoModelForMultimodalLM, ProcessorMixin

from mmembed.images import load_image
from mmembed.models.folder_checks import check_model_folder
from mmembed.models.multimodal_transformer import plain_text
from mmembed.prompt_safety import control_tokens
from mmembed.rerankers.text_pairs import RerankerError

PROMPT = "Does the candidate show or say what the query asks for? Answer with yes or no."
_MARK = "{#- a query and a candidate as one question -#}"
# sentence-transformers hands a pair over as two messages of the roles query and document; the model's own template knows
# neither. An `if` opens no scope in Jinja: what is set here, the template that follows reads.
_TEMPLATE = """{mark}
{{%- if messages | selectattr("role", "equalto", "document") | list -%}}
{{%- set asked = (messages | selectattr("role", "equalto", "query") | first)["content"] -%}}
{{%- set offered = (messages | selectattr("role", "equalto", "document") | first)["content"] -%}}
{{%- set question = [{{"type": "text", "text": {prompt}}}] + asked + [{{"type": "text", "text": "\\nCandidate: "}}] + offered -%}}
{{%- set messages = messages | rejectattr("role", "in", ["query", "document"]) | list
    + [{{"role": "user", "content": question}}] -%}}
{{%- set add_generation_prompt = true -%}}
{{%- endif -%}}
"""


class PairQuestion(Transformer):
    """sentence-transformers' Transformer around a vision-language model, which is asked about a query and a candidate.

    Each of the two is a text, an image, or both. A string is always a text: nothing is opened, and what in a text spells
    out a control token or an image's placeholder is taken apart by a space, so that it is read as text. (What a text says
    in plain words, a model may still obey; a score is an opinion about data of strangers, never a permission.)

    It is saved as sentence-transformers' own module with the question in its chat template, and loads there without
    mmembed, with the same scores for the same texts; the two protections of the paragraph above are this class's.
    """

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pairs → tensors.

        Args:
            inputs: (query, candidate) pairs; each a string, a PIL image or uint8 array, or a dict with "text", "image" or
                both. Strings alone are tokenised and no more; sentence-transformers counts tokens so.
            prompt: A system message.
            processing_kwargs: Arguments for the processor in this call, as sentence-transformers takes them.
            **kwargs: `task`, `max_length`.

        Returns:
            What the processor makes: input_ids and attention_mask, int64 (pairs, length), padded on the left, and
            pixel_values where there is an image.

        Raises:
            ValueError: If an input is no such pair or too long for the model, with its number.
        """
        if inputs and all(isinstance(text, str) for text in inputs):
            tokenizer: Any = self.tokenizer
            return dict(tokenizer(list(inputs), padding=True, return_tensors="pt", split_special_tokens=True))
        control = self.control_tokens
        conversations = []
        for number, pair in enumerate(inputs):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(f"pair {number}: expected a query and a candidate, got {type(pair).__name__}.")
            limits = (self.query_length, self.document_length)
            parts = [self._parts(item, number, limit, control) for item, limit in zip(pair, limits)]
            conversations.append(
                [{"role": role, "content": part} for role, part in zip(("query", "document"), parts, strict=True)]
            )
        features = super().preprocess(conversations, prompt=prompt, processing_kwargs=processing_kwargs, **kwargs)
        longest = _positions(self)
        if longest is not None and features and features["input_ids"].shape[1] > longest:
            number = int(features["attention_mask"].sum(dim=1).argmax())
            raise ValueError(
                f"pair {number} has {features['input_ids'].shape[1]} tokens and the model takes {longest}; shorten texts "
                "by query_max_length and candidate_max_length, or give smaller images."
            )
        return features

    @property
    def control_tokens(self) -> list[str]:
        """What a text may not spell out: every added token of the tokenizer and every placeholder, longest first."""
        return control_tokens(self.processor)

    def _parts(self, item: Any, number: int, limit: int | None, control: list[str]) -> list[dict[str, Any]]:
        """The content of a message, in the row's own order, as sentence-transformers keeps it."""
        if isinstance(item, str):
            item = {"text": item}
        elif isinstance(item, (Image.Image, np.ndarray)):
            item = {"image": item}
        held = {name: value for name, value in item.items() if value is not None} if isinstance(item, dict) else {}
        picture, text = held.get("image"), held.get("text")
        if (
            not held
            or set(held) - {"text", "image"}
            or not isinstance(text, (str, type(None)))
            or not isinstance(picture, (Image.Image, np.ndarray, type(None)))
        ):
            raise ValueError(
                f"pair {number}: a query or candidate is a string, a PIL image or uint8 array, or a dict with 'text', "
                f"'image' or both; got {_shown(item)} (paths and URLs are not opened here, see mmembed.images.load_image)."
            )
        shown = {} if picture is None else {"image": load_image(picture)}
        told = {} if text is None else {"text": self._cut(plain_text(text, control), limit)}
        return [{"type": name, name: {**shown, **told}[name]} for name in held]

    def _cut(self, text: str, limit: int | None) -> str:
        if limit is None:
            return text
        tokenizer: Any = self.tokenizer
        kept = tokenizer(
            text, add_special_tokens=False, truncation=True, max_length=limit, return_offsets_mapping=True
        )["offset_mapping"]
        return text[: kept[-1][1]] if len(kept) == limit else text

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # By its name alone pickle would find the stock class.
        return _empty_module, (), self.__dict__


# sentence-transformers writes the class's name into modules.json, and loads code of no other package unasked.
PairQuestion.__module__ = Transformer.__module__
PairQuestion.__name__ = Transformer.__name__
PairQuestion.__qualname__ = Transformer.__qualname__


def load_vlm_reranker(
    name_or_path: str | os.PathLike[str],
    *,
    true_token: str | None = None,
    false_token: str | None = None,
    prompt: str | None = None,
    query_max_length: int | None = None,
    candidate_max_length: int | None = None,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    model_kwargs: dict[str, Any] | None = None,
    processor_kwargs: dict[str, Any] | None = None,
) -> CrossEncoder:
    """A `CrossEncoder` whose score is the probability of "yes" against "no" in a vision-language model's answer.

        score(q, c) = sigmoid( logit of true_token - logit of false_token ), at the first token of the answer

    BinaryCrossEntropyLoss trains the difference under the sigmoid. `CrossEncoder(name)` alone fails for such a model, as
    it looks for a sequence classifier; once saved by `save_pretrained`, it loads there too.

    Args:
        name_or_path: A model of images and texts with a chat template (Idefics3, SmolVLM, LLaVA, Gemma 3, Qwen-VL …), or
            what `save_pretrained` wrote of a scorer.
        true_token: The answer that means a match, one token; what was saved, else "yes", when None.
        false_token: The other answer; what was saved, else "no", when None.
        prompt: What is asked before query and candidate; what was saved, else `PROMPT`, when None.
        query_max_length: Tokens that a query's text keeps; what was saved, else all, when None.
        candidate_max_length: The same for a candidate's.
        device: Where the model is put; chosen by sentence-transformers when None.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Run the code that a model brings.
        model_kwargs: Arguments of the model's `from_pretrained`, such as `dtype`. Weights that are not safetensors are
            refused unless `use_safetensors` is False here.
        processor_kwargs: Arguments of `AutoProcessor.from_pretrained`.

    Returns:
        The model, in evaluation mode.

    Raises:
        RerankerError: If it is no such model, an answer is no single token of its vocabulary, or a saved scorer is to be
            asked something else.

    Example:
        >>> scorer = load_vlm_reranker("HuggingFaceTB/SmolVLM-256M-Instruct")  # doctest: +SKIP
        >>> scorer.predict([("red mug", photo), (photo, {"text": "a mug", "image": other})])  # doctest: +SKIP
    """
    name = os.fspath(name_or_path)
    if Path(name).is_file() or (not Path(name).exists() and (os.path.isabs(name) or name.startswith((".", "~")))):
        raise RerankerError(f"{name} is no folder; pass the folder that holds the model.")
    if Path(name).is_dir():
        check_model_folder(name, trust_remote_code=trust_remote_code)
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    weights = {"use_safetensors": True, **(model_kwargs or {})}
    saved = load_file_path(name, "modules.json", revision=revision) is not None
    try:
        if saved:
            model = CrossEncoder(
                name, device=device, model_kwargs=weights, processor_kwargs=dict(processor_kwargs or {}), **shared
            )
            modules = list(model)
        else:
            modules = [_transformer(name, weights, dict(processor_kwargs or {}), shared)]
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise RerankerError(f"{name} cannot be loaded: {_reason(error)}") from error
    transformer = modules[0]
    _check(transformer, modules, name, saved)
    transformer.__class__ = PairQuestion
    if query_max_length is not None or candidate_max_length is not None:
        _check_lengths(query_max_length, candidate_max_length)
    transformer.query_length = query_max_length or transformer.query_length
    transformer.document_length = candidate_max_length or transformer.document_length
    if saved:
        if prompt is not None or true_token is not None or false_token is not None:
            raise RerankerError(
                f"{name} is a saved scorer with a prompt and answers of its own; to ask something else, load the model it "
                "was made of."
            )
        return model.eval()
    wanted = ("yes" if true_token is None else true_token, "no" if false_token is None else false_token)
    answers = [_answer_id(transformer, token) for token in wanted]
    if answers[0] == answers[1]:
        raise RerankerError(f"true_token={wanted[0]!r} and false_token={wanted[1]!r} are the same token.")
    processor: Any = transformer.processor
    asked = json.dumps(f"{PROMPT if prompt is None else prompt}\nQuery: ", ensure_ascii=False)
    processor.chat_template = _TEMPLATE.format(mark=_MARK, prompt=asked) + processor.chat_template
    # Cut from the right, a conversation loses the place where the answer stands, and images their placeholders.
    transformer.processing_kwargs = {
        **transformer.processing_kwargs,
        "text": {**transformer.processing_kwargs.get("text", {}), "truncation": False},
    }
    scorer = CrossEncoder(
        modules=[transformer, LogitScore(answers[0], answers[1])], device=device, activation_fn=nn.Sigmoid()
    )
    return scorer.eval()


def _transformer(name: str, weights: dict[str, Any], processor: dict[str, Any], shared: dict[str, Any]) -> Transformer:
    config = AutoConfig.from_pretrained(name, **shared)
    if type(config) not in AutoModelForMultimodalLM._model_mapping.keys():  # noqa: SIM118 - a lazy mapping
        raise ValueError(f"a {config.model_type} model answers no questions about images")
    return Transformer(
        name,
        transformer_task="any-to-any",
        model_kwargs={**shared, **weights},
        processor_kwargs={**shared, **processor},
        config_kwargs=dict(shared),
    )


def _check(transformer: Any, modules: list[Any], name: str, saved: bool) -> None:
    if saved and [type(module) for module in modules] != [Transformer, LogitScore]:
        kinds = ", ".join(type(module).__name__ for module in modules)
        raise RerankerError(f"{name} is no vision-language scorer but [{kinds}]; see load_text_reranker.")
    if getattr(transformer, "transformer_task", None) != "any-to-any":
        raise RerankerError(
            f"{name} is a language model without images; load it with sentence_transformers.CrossEncoder."
        )
    processor = transformer.processor
    if not isinstance(processor, ProcessorMixin):
        raise RerankerError(
            f"{name} has a {type(processor).__name__} and no processor of images and texts; some need torchvision."
        )
    if not isinstance(processor.chat_template, str):
        raise RerankerError(f"{name} has no chat template, or several; a question cannot be put to it.")
    if saved and not processor.chat_template.startswith(_MARK):
        raise RerankerError(
            f"{name} was not saved by load_vlm_reranker: its chat template asks no question about a pair."
        )
    if transformer.modality_config.get("message", {}).get("format") != "structured":
        raise RerankerError(f"{name} has a chat template that takes texts alone; its images would not be seen.")


def _answer_id(transformer: Any, token: str) -> int:
    tokenizer = transformer.tokenizer
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id or ids[0] in tokenizer.all_special_ids:
        pieces = tokenizer.convert_ids_to_tokens(ids)
        raise RerankerError(
            f"the answer {token!r} is {pieces} to the tokenizer; true_token and false_token are each one token of the "
            "vocabulary, such as 'Yes' or ' yes'."
        )
    return ids[0]


def _check_lengths(*lengths: int | None) -> None:
    for length in lengths:
        if length is not None and length < 1:
            raise RerankerError(f"a text keeps at least 1 token, got {length}.")


def _positions(module: Transformer) -> int | None:
    config: Any = module.config
    return getattr(getattr(config, "text_config", config), "max_position_embeddings", None)


def _shown(item: Any) -> str:
    if isinstance(item, dict):
        return f"a dict of { ({name: type(value).__name__ for name, value in item.items()}) }"
    return type(item).__name__


def _reason(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    if "safetensors" in text:
        return f"{text} Only safetensors are read; pass model_kwargs={{'use_safetensors': False}} if you trust whoever made it."
    return f"{type(error).__name__}: {text}"


def _empty_module() -> PairQuestion:
    return PairQuestion.__new__(PairQuestion)

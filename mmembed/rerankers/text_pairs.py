"""How well does a passage answer a query? Rerankers of two texts (BGE's, and what FlagEmbedding trains) as `CrossEncoder`s."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import load_file_path
from tokenizers import Encoding
from torch import nn

from mmembed.models.folder_checks import check_model_folder

_PUBLISHED_LENGTH = 512  # tokens; FlagEmbedding's default for every encoder reranker


class RerankerError(ValueError):
    """A folder or name that no reranker of two texts can be made of, with what to do."""


class PairTransformer(Transformer):
    """sentence-transformers' Transformer, which cuts a pair of texts as FlagEmbedding does.

    A query keeps at most `query_max_length` tokens, then the passage gives way until both and their special tokens fit
    `max_seq_length`. sentence-transformers would shorten whichever is longer.

    It is saved as sentence-transformers' own module. That gives the same scores to pairs that fit, and to longer ones whose
    query takes up no more than half of `max_seq_length`.
    """

    #: Tokens that a query keeps; None for three quarters of `max_seq_length`.
    query_max_length: int | None = None

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pairs → tensors.

        Args:
            inputs: (query, passage) pairs of texts.
            prompt: Put before each query.
            processing_kwargs: Arguments for the tokenizer in this call, as sentence-transformers takes them.
            **kwargs: `task`, `max_length`.

        Returns:
            input_ids and attention_mask, int64 (pairs, length), and token_type_ids where the model takes them.

        Raises:
            ValueError: If an input is no pair of texts, with its number.
            RerankerError: If `max_length` has no room for a passage.
        """
        if all(isinstance(text, str) for text in inputs):  # no pairs; trainers measure single texts
            return super().preprocess(inputs, prompt=prompt, processing_kwargs=processing_kwargs, **kwargs)
        for number, pair in enumerate(inputs):
            if not isinstance(pair, (tuple, list)) or [type(text) for text in pair] != [str, str]:
                raise ValueError(f"pair {number}: expected a query and a passage, two strings, got {_shown(pair)}.")
        text = dict(self._merge_processing_kwargs(processing_kwargs).get("text", {}))
        max_length = int(kwargs.get("max_length") or text.get("max_length") or self.max_seq_length or 0)
        rows = self._rows(
            [f"{prompt or ''}{query}" for query, _ in inputs], [passage for _, passage in inputs], max_length
        )
        names = {"input_ids": [row.ids for row in rows], "token_type_ids": [row.type_ids for row in rows]}
        tokenizer: Any = self.tokenizer
        padding = text.get("padding", True)
        features = tokenizer.pad(
            {name: ids for name, ids in names.items() if name in tokenizer.model_input_names},
            padding=padding,
            max_length=max_length if padding == "max_length" else None,
            pad_to_multiple_of=text.get("pad_to_multiple_of"),
            return_tensors="pt",
        )
        return {**features, "modality": "text"}

    def _rows(self, queries: list[str], passages: list[str], max_length: int) -> list[Encoding]:
        """Each pair's tokens, special ones among them, at most `max_length`."""
        tokenizer: Any = self.tokenizer
        most, special = self.check_lengths(max_length)
        cut = {"add_special_tokens": False, "truncation": True}
        first = tokenizer(queries, max_length=most, **cut).encodings
        second = tokenizer(passages, max_length=max_length, **cut).encodings
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()  # else what the calls before have set would cut the pair too
        backend.no_padding()
        for query, passage in zip(first, second):
            passage.truncate(max_length - special - len(query), direction=tokenizer.truncation_side)
        return [backend.post_process(query, passage) for query, passage in zip(first, second)]

    def check_lengths(self, max_length: int) -> tuple[int, int]:
        """How many tokens of a pair a query may have, and how many are special.

        Args:
            max_length: Tokens of a pair.

        Raises:
            RerankerError: If a query has no token, or none would be left for the passage.
        """
        tokenizer: Any = self.tokenizer
        special = tokenizer.num_special_tokens_to_add(pair=True)
        most = max_length * 3 // 4 if self.query_max_length is None else self.query_max_length
        if most < 1:
            raise RerankerError(f"query_max_length={most}; a query needs at least 1 token.")
        if most + special >= max_length:
            raise RerankerError(
                f"max_length={max_length} holds {special} special tokens and a query of up to {most}: none is left for the "
                "passage. Raise max_length or lower query_max_length."
            )
        return most, special

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # By its name alone pickle would find the stock class.
        return _empty_module, (), self.__dict__


# sentence-transformers writes the class's name into modules.json, and loads code of no other package unasked.
PairTransformer.__module__ = Transformer.__module__
PairTransformer.__name__ = Transformer.__name__
PairTransformer.__qualname__ = Transformer.__qualname__


def load_text_reranker(
    name_or_path: str | os.PathLike[str],
    *,
    max_length: int | None = None,
    query_max_length: int | None = None,
    normalize: bool | None = None,
    new_head: bool = False,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    model_kwargs: dict[str, Any] | None = None,
    processor_kwargs: dict[str, Any] | None = None,
) -> CrossEncoder:
    """A `CrossEncoder` that scores (query, passage) pairs as FlagEmbedding's `FlagReranker` does.

    What its `save_pretrained` writes loads in `FlagReranker` and in plain sentence-transformers.

    Args:
        name_or_path: bge-reranker-base, -large, -v2-m3 or another sequence classifier with one label: what FlagEmbedding
            or sentence-transformers trained.
        max_length: Tokens of a pair, special ones among them. None: what sentence-transformers saved with the model, or
            512, and never more than the model has positions for.
        query_max_length: Tokens that a query keeps; None for three quarters of `max_length`.
        normalize: Whether `predict` gives the sigmoid of the logit instead of the logit. None: what sentence-transformers
            saved with the model, or the logit.
        new_head: Take a model without a classifier, and give it one that has yet to be trained.
        device: Where the model is put; chosen by sentence-transformers when None.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Run the code that a model brings.
        model_kwargs: Arguments of `AutoModelForSequenceClassification.from_pretrained`. Weights that are not safetensors
            are pickles, which run code when read; they are refused unless `use_safetensors` is False here.
        processor_kwargs: Arguments of `AutoTokenizer.from_pretrained`.

    Returns:
        The model, in evaluation mode.

    Raises:
        RerankerError: If it is no such model, or a length cannot be.

    Example:
        >>> from mmembed.models.dual_encoder.building import train_tokenizer
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> folder, words = str(getfixture("tmp_path")), train_tokenizer(["a red mug"], vocab_size=50, max_length=32)
        >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        >>> config = BertConfig(vocab_size=len(words), max_position_embeddings=32, num_labels=1, **sizes)
        >>> _ = BertForSequenceClassification(config).save_pretrained(folder), words.save_pretrained(folder)
        >>> model = load_text_reranker(folder, device="cpu")
        >>> model.predict([("red mug", "a red mug"), ("red mug", "a lazy dog")]).shape
        (2,)
    """
    name = os.fspath(name_or_path)
    if Path(name).is_file() or (not Path(name).exists() and (os.path.isabs(name) or name.startswith((".", "~")))):
        raise RerankerError(f"{name} is no folder; pass the folder that holds the model.")
    if Path(name).is_dir():
        check_model_folder(name, trust_remote_code=trust_remote_code)
    saved = load_file_path(name, "modules.json", revision=revision) is not None
    try:
        model = CrossEncoder(
            name,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            model_kwargs={"use_safetensors": True, **(model_kwargs or {})},
            processor_kwargs=dict(processor_kwargs or {}),
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise RerankerError(f"{name} cannot be loaded: {_reason(error)}") from error
    _check(model, name, new_head)
    module = model[0]
    module.__class__ = PairTransformer
    longest = _positions(module)
    if max_length is not None and longest is not None and max_length > longest:
        raise RerankerError(f"max_length={max_length}: {name} has positions for {longest} tokens.")
    wanted = max_length or (module.max_seq_length if saved else _PUBLISHED_LENGTH) or _PUBLISHED_LENGTH
    module.max_seq_length = wanted if longest is None else min(wanted, longest)
    module.query_max_length = query_max_length
    module.check_lengths(module.max_seq_length)
    if normalize is not None or not saved:
        model.activation_fn = nn.Sigmoid() if normalize else nn.Identity()
    return model.eval()


def _check(model: CrossEncoder, name: str, new_head: bool) -> None:
    if len(model) != 1 or type(model[0]) is not Transformer or model[0].transformer_task != "sequence-classification":
        kinds = ", ".join(type(module).__name__ for module in model)
        raise RerankerError(
            f"{name} is no sequence classifier but [{kinds}]. A language model that answers yes or no is a reranker of "
            "another kind; load it with sentence_transformers.CrossEncoder."
        )
    if model.num_labels != 1:
        raise RerankerError(f"{name} has {model.num_labels} labels; a reranker has 1, the score.")
    architectures = getattr(model.config, "architectures", None) or []
    if not new_head and not any(kind.endswith("ForSequenceClassification") for kind in architectures):
        raise RerankerError(
            f"{name} has no classifier, its architecture is {', '.join(architectures) or 'not named'}: its scores would be "
            "random. Pass new_head=True to train one."
        )
    if not model.tokenizer.is_fast:
        raise RerankerError(
            f"{name} has a slow tokenizer, {type(model.tokenizer).__name__}; only a fast one can cut a pair."
        )


def _positions(module: Transformer) -> int | None:
    """The longest row the model has positions for; RoBERTa's start after the padding's."""
    longest = getattr(module.config, "max_position_embeddings", None)
    if longest is None or longest < 1:
        return None
    embeddings: list[Any] = [getattr(part, "position_embeddings", None) for part in module.model.modules()]
    before = [getattr(embedding, "padding_idx", None) for embedding in embeddings]
    return longest - max((index + 1 for index in before if index is not None), default=0)


def _shown(pair: Any) -> str:
    if isinstance(pair, (tuple, list)):
        return f"{type(pair).__name__} of ({', '.join(type(part).__name__ for part in pair)})"
    return type(pair).__name__


def _reason(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    if "safetensors" in text:
        return f"{text} Only safetensors are read; pass model_kwargs={{'use_safetensors': False}} if you trust whoever made it."
    return f"{type(error).__name__}: {text}"


def _empty_module() -> PairTransformer:
    return PairTransformer.__new__(PairTransformer)

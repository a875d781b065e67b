"""A small vision-language model made in code: an Idefics3 of random weights with a processor and a chat template of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PATCH = 14
CONTROL_TOKENS = [
    "<pad>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
]  # fmt: skip
# ChatML, whose parts are texts or images; a message may also be one string.
TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message["role"] }}
{% if message["content"] is string %}{{ message["content"] }}{% else %}{%- for part in message["content"] -%}
{%- if part["type"] == "image" -%}<image>{%- else -%}{{ part["text"] }}{%- endif -%}
{%- endfor -%}{% endif %}<end_of_utterance>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


def build_small_vision_language(
    folder: str | os.PathLike[str],
    texts: Iterable[str],
    *,
    image_size: int = 56,
    scale_factor: int = 2,
    vocab_size: int = 1200,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 4,
    image_hidden_size: int = 32,
    image_layers: int = 2,
    image_heads: int = 4,
    max_positions: int = 1024,
    seed: int = 0,
) -> str:
    """Write the folder of a new small Idefics3 (Laurençon et al. 2024, https://arxiv.org/abs/2408.12637), as a Hub model has it.

    It sees each image as (image_size / 14 / scale_factor)² tokens and knows nothing yet. It needs no torchvision, and no
    network; it is for tests, for the recipe without a model, and to see what preference training can do in minutes.

    Args:
        folder: where it goes.
        texts: what its tokenizer learns its words from.
        image_size: side in pixels to which an image is brought; a multiple of 14 · scale_factor.
        scale_factor: that many patches in each direction are put together into one token.
        vocab_size: words and pieces of words.
        hidden_size: width of the language model.
        layers: its layers.
        heads: its attention heads.
        image_hidden_size: width of the vision tower.
        image_layers: its layers.
        image_heads: its attention heads.
        max_positions: longest sequence.
        seed: of the weights.

    Returns:
        The folder.

    Raises:
        ValueError: sizes that do not go into each other.

    Example:
        >>> import tempfile; folder = tempfile.mkdtemp()
        >>> from transformers import AutoProcessor
        >>> AutoProcessor.from_pretrained(build_small_vision_language(folder, ["Is it red?"])).image_seq_len
        4
    """
    import torch
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
    )

    if image_size % (_PATCH * scale_factor) or hidden_size % heads or image_hidden_size % image_heads:
        raise ValueError(
            f"image_size={image_size} must be a multiple of {_PATCH} · scale_factor={scale_factor}, hidden_size={hidden_size} "
            f"of heads={heads}, image_hidden_size={image_hidden_size} of image_heads={image_heads}"
        )
    words = words_tokenizer(texts, vocab_size)
    side = {"longest_edge": image_size}
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False),
        words,
        image_seq_len=(image_size // _PATCH // scale_factor) ** 2,
        chat_template=TEMPLATE,
    )
    ids: dict[str, Any] = {
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }
    config = Idefics3Config(
        vision_config={
            "hidden_size": image_hidden_size, "intermediate_size": 2 * image_hidden_size,
            "num_hidden_layers": image_layers, "num_attention_heads": image_heads,
            "image_size": image_size, "patch_size": _PATCH,
        },
        text_config={
            "model_type": "llama", "hidden_size": hidden_size, "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
            "vocab_size": len(words), "max_position_embeddings": max_positions, "tie_word_embeddings": False, **ids,
        },
        scale_factor=scale_factor,
        tie_word_embeddings=False,
        **{"image_token_id": words.convert_tokens_to_ids("<image>"), "pad_token_id": words.pad_token_id},  # type: ignore[arg-type]
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Idefics3ForConditionalGeneration(config)
    model.generation_config.pad_token_id = words.pad_token_id
    model.generation_config.eos_token_id = words.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return os.fspath(folder)


def words_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the control tokens of an Idefics3.

    Args:
        texts: what it learns its words from.
        vocab_size: words and pieces of words, the control tokens and all bytes among them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=CONTROL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        additional_special_tokens=CONTROL_TOKENS[3:],
    )

"""Which instruction a text embedder was trained to read before a query, and how it is kept: as a prompt of the model."""

from __future__ import annotations

import string

from sentence_transformers import SentenceTransformer

_GEMMA = "<instruct>Given a web search query, retrieve relevant passages that answer the query.\n<query>"

#: family → what its model card puts before queries and before documents. bge-m3 takes no instruction.
INSTRUCTIONS: dict[str, dict[str, str]] = {
    "bge-en": {"query": "Represent this sentence for searching relevant passages: "},
    "bge-zh": {"query": "为这个句子生成表示以用于检索相关文章："},
    "bge-m3": {},
    "bge-multilingual-gemma2": {"query": _GEMMA},
    "bge-en-icl": {"query": _GEMMA},
    "e5": {"query": "query: ", "document": "passage: "},
}


def set_prompts(
    model: SentenceTransformer, *, query: str | None = None, document: str | None = None
) -> SentenceTransformer:
    """Put texts before the model's queries and documents from now on.

    `model.encode_query` and `model.encode_document` read them; plain `model.encode` does not. `save_pretrained` writes them
    into `config_sentence_transformers.json`, so whoever loads the folder has them too.

    Args:
        model: Any `SentenceTransformer`; changed in place.
        query: What stands before each query, with its own colon and space; "" for nothing, None to leave it as it is.
        document: The same for documents.

    Returns:
        The same model.

    Raises:
        TypeError: If one of them is no text.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = set_prompts(build_dual_encoder(["red mug"], image_size=32), **INSTRUCTIONS["e5"])
        >>> bool((model.encode_query("red mug") == model.encode("query: red mug")).all())
        True
    """
    for name, prompt in (("query", query), ("document", document)):
        if prompt is None:
            continue
        if not isinstance(prompt, str):
            raise TypeError(f"{name}={prompt!r}; it is the text that stands before each {name}.")
        model.prompts[name] = prompt
    return model


def instruction_prompt(instruction: str, instruction_format: str = "{}{}") -> str:
    """The prompt that is FlagEmbedding's instruction and its format.

    FlagEmbedding writes `instruction_format.format(instruction, text)` (its `query_instruction_for_retrieval` and
    `query_instruction_format`); sentence-transformers puts one text before another, so the text must come last.

    Args:
        instruction: What the query is for.
        instruction_format: With two fields, the instruction and the text. A backslash and an n stand for a new line.

    Returns:
        What stands before the text.

    Raises:
        ValueError: If the format has other fields, or something after the text.

    Example:
        >>> instruction_prompt("Find a passage.", "<instruct>{}\\n<query>{}")
        '<instruct>Find a passage.\\n<query>'
    """
    written = instruction_format.replace("\\n", "\n")
    parts = list(string.Formatter().parse(written))
    if [name for _, name, _, _ in parts] not in (["", ""], ["0", "1"]) or any(
        spec or conversion for _, _, spec, conversion in parts
    ):
        raise ValueError(
            f"instruction_format={instruction_format!r}; it must hold {{}} twice, the instruction and then the text, and "
            "end with the text: a prompt stands before the text."
        )
    return written.format(instruction, "")

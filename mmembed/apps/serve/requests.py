"""What may be asked? The fields of each request, checked before the model hears of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmembed.apps.serve.limits import ServeLimits
from mmembed.apps.serve.rejections import Rejection
from mmembed.data.schema import check_characters

RequestT = TypeVar("RequestT", bound="Request")
Row = dict[str, Any]  # "text": str, "image": base64 or bytes, one or both


class Request(BaseModel):
    """What all requests have in common: no field that is not known, nothing that is turned into another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class EmbeddingsRequest(Request):
    """OpenAI's `/v1/embeddings`."""

    model: str
    input: Any = Field(description="a text, or a list of texts")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="a length that the server was started with")
    user: str | None = None


class EncodeRequest(Request):
    """`/encode`: rows of texts, images, and both."""

    inputs: Any = Field(description="a list of texts and of {'text': …, 'image': base64}")
    prompt_name: str | None = Field(None, description="one of the model's prompts, such as query")
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"


class SearchRequest(Request):
    """`/search`: one query."""

    query: str | list[str] | None = Field(None, description="a text, or a dialogue's rounds")
    image: Any = Field(None, description="base64 of an image that results resemble")
    k: Annotated[int, Field(ge=1)] = 10
    filters: dict[str, Any] | None = Field(
        None, description="by attribute: a value, a list of values, {'min': …, 'max': …}, or null"
    )
    rerank: bool = True
    fields: list[str] = Field([], description="attributes to answer with")


class RerankRequest(Request):
    """`/rerank`: one query and its candidates."""

    query: Any = Field(description="a text, or {'text': …, 'image': base64}")
    documents: Any = Field(description="a list of texts and of {'text': …, 'image': base64}")
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    model: str | None = None


def checked(kind: type[RequestT], content: dict[str, Any]) -> RequestT:
    """A request of a kind.

    Args:
        kind: Its class.
        content: The JSON object.

    Raises:
        Rejection: 400, naming the first field that is wrong; never what stands in it.

    Example:
        >>> checked(EncodeRequest, {"inputs": ["a"], "dimensions": "8"})
        Traceback (most recent call last):
        mmembed.apps.serve.rejections.Rejection: dimensions: Input should be a valid integer
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        names = [str(part) for part in first["loc"] if not str(part).startswith(("function-", "list[", "str"))]
        param = ".".join(names[:2])[:60]
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise Rejection(
                400, f"{param}: no such field; there are {known}", code="unknown_field", param=param
            ) from None
        raise Rejection(400, f"{param}: {first['msg']}", code="invalid_field", param=param) from None


def rows_of(given: Any, limits: ServeLimits, param: str) -> list[Row]:
    """Inputs as rows.

    Args:
        given: A text, a row, or a list of them.
        limits: The server's.
        param: Which field it is.

    Returns:
        One {"text": …, "image": …} a row; an image is still encoded.

    Raises:
        Rejection: 400 for anything else, an empty list, or too many.
    """
    listed = given if isinstance(given, list) else [given]
    if not listed:
        raise Rejection(400, f"{param}: an empty list; send at least one input", code="empty", param=param)
    if len(listed) > limits.max_rows:
        message = f"{param}: {len(listed)} inputs, at most {limits.max_rows} are taken at once; send several requests"
        raise Rejection(400, message, code="too_many", param=param)
    return [
        row_of(one, limits, f"{param}[{number}]" if isinstance(given, list) else param)
        for number, one in enumerate(listed)
    ]


def row_of(one: Any, limits: ServeLimits, param: str) -> Row:
    """One input as a row, see `rows_of`."""
    parts = {"text": one} if isinstance(one, str) else one
    if isinstance(one, (int, float)) and not isinstance(one, bool) or isinstance(one, list):
        raise Rejection(400, f"{param}: token ids are not read; send texts", code="tokens", param=param)
    if not isinstance(parts, dict) or not parts or set(parts) - {"text", "image"}:
        raise Rejection(
            400, f"{param}: an input is a text, or an object with 'text', 'image' or both", code="input", param=param
        )
    row = {name: part for name, part in parts.items() if part is not None}
    if not row:
        raise Rejection(400, f"{param}: neither a text nor an image", code="input", param=param)
    if "text" in row:
        row["text"] = text_of(row["text"], limits, param)
    return row


def text_of(text: Any, limits: ServeLimits, param: str) -> str:
    """A text that a tokenizer can read.

    Raises:
        Rejection: 400.
    """
    if not isinstance(text, str):
        raise Rejection(400, f"{param}: a text is a string", code="input", param=param)
    if len(text) > limits.max_text_chars:
        message = f"{param}: a text of {len(text):,} characters, at most {limits.max_text_chars:,} are taken"
        raise Rejection(400, message, code="too_long", param=param)
    if not text.strip():
        raise Rejection(400, f"{param}: an empty text", code="empty", param=param)
    try:
        return check_characters(text)
    except ValueError as error:
        raise Rejection(400, f"{param}: {error}", code="characters", param=param) from None


def filters_of(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """Conditions in the form that a search takes: a range is a pair.

    Args:
        given: By attribute: a value, a list, {"min": …, "max": …}, or null.

    Raises:
        Rejection: 400 for another object.

    Example:
        >>> filters_of({"price": {"max": 50}, "colour": ["red"]})
        {'price': (None, 50), 'colour': ['red']}
    """
    if given is None:
        return None
    found: dict[str, Any] = {}
    for name, condition in given.items():
        if isinstance(condition, dict):
            ends = {"min": None, "max": None, **condition}
            numbers = all(
                end is None or (isinstance(end, (int, float)) and not isinstance(end, bool)) for end in ends.values()
            )
            if len(ends) != 2 or not condition or not numbers:
                message = f"filters.{name[:40]}: a range has 'min', 'max' or both, which are numbers"
                raise Rejection(400, message, code="filter", param="filters")
            found[name] = (ends["min"], ends["max"])
        elif isinstance(condition, list) and any(isinstance(one, (dict, list)) for one in condition):
            raise Rejection(400, f"filters.{name[:40]}: a list holds values", code="filter", param="filters")
        else:
            found[name] = condition
    return found

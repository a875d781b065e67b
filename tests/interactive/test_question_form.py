"""Questions that are no good, whoever is looked for, and questions that were asked before."""

from __future__ import annotations

import time

import pytest

from mmembed.interactive.question_form import form_fault, is_repeat, sift
from mmembed.interactive.questions import Question

GOOD = [
    "Is the mug striped?", "What colour is the handle?", "Does it have a pattern?", "Is it a picture of a dog?", "Is there a person in the image?",
    "Is the photo one of a beach?", "Is it a picture a child could have drawn?", "Which of these colours does it have, red or blue?",
    "Is the product 2 metres long?", "Is it \"vintage\"?", "它是红色的吗？", "这件衣服有口袋吗?", "照片一定是在室外拍的吗？", "Есть ли у неё карманы?",
    "Верно ли: цвет – красный?", "Is its brand 4711?", "Is the item one of a pair?", "How many handles are there?",
]  # fmt: skip
BAD = {
    "no_question": ["The mug is striped.", "Is it red? Is it big?", "", "?? red", "Is it red? I think so.", "Red or blue"],
    "too_long": ["Is it " + "very " * 25 + "red?", "它是" + "很" * 60 + "红的吗？", "Is it " + "a" * 600 + "?"],
    "about_nothing": ["What is it?", "Is it?", "What is this about?", "что это?", "是什么？", "!?"],
    "true_of_all": [
        "Is it a picture?", "Is this an image?", "Is there anything?", "Does it have a colour?", "Can you describe the mug?",
        "Do you like red mugs?", "Is it something?", "Is this what you are looking for?", "Is there something else in the photo?",
        "What else can you tell me about the mug?", "这是图片吗？", "你能描述一下吗？", "Это фото?", "Можете ли вы описать кружку?",
    ],
    "about_candidates": [
        "Is it like image 2?", "Which picture is closest?", "Is it in the first photo?", "Which of these is it?", "Is it one of the images?",
        "Are any of them striped?", "Is it more like option B?", "Which one of these matches best?", "Is it picture A or picture B?",
        "它像第二张吗？", "哪张图片最像？", "Она на первой картинке?", "Is it among these five pictures?", "Is it like Image #3?",
    ],
}  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_good_questions(text: str) -> None:
    assert form_fault(Question(text)) is None


@pytest.mark.parametrize(("fault", "text"), [(fault, text) for fault, texts in BAD.items() for text in texts])
def test_faults(fault: str, text: str) -> None:
    assert form_fault(Question(text)) == fault


@pytest.mark.parametrize(
    "options", [("red",), ("red", "Red "), ("red", ""), ("red", "  "), tuple(str(number) for number in range(21))]
)
def test_options_that_are_none(options: tuple[str, ...]) -> None:
    assert form_fault(Question("What colour is the mug?", options)) == "bad_options"
    assert form_fault(Question("What colour is the mug?", ("red", "blue"))) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Is the mug striped?", "is the MUG  striped?", True),
        ("Is the mug striped?", "Does the mug have stripes?", True),
        ("Is the mug striped?", "Is the mug dotted?", False),
        ("Is it red?", "Is it blue?", False),
        ("Is it red?", "Is its colour red?", False),
        ("Is there a dog on the left?", "Is there a dog on the right?", False),
        ("Is the man in the photo wearing a blue hat with 2 feathers?", "Is the man in the photo wearing a blue hat with 3 feathers?", False),
        ("它是红色的吗？", "它是蓝色的吗？", False),
        ("它是红色的吗？", "它是红色吗?", True),
        ("Она красная?", "Это красное?", True),
        ("Что это?", "What?", False),
    ],
)  # fmt: skip
def test_repeats(one: str, other: str, same: bool) -> None:
    assert is_repeat(Question(one), [Question("Is it big?"), Question(other)]) is same
    assert is_repeat(Question(other), [Question(one)]) is same


def test_one_attribute_is_one_question() -> None:
    asked = [Question("What is its colour?", attribute="colour")]
    assert is_repeat(Question("Which hue does it have?", attribute="colour"), asked)
    assert not is_repeat(Question("Which hue does it have?"), asked)
    assert not is_repeat(Question("Is it red?", attribute="colour=red"), asked)


def test_sifting_keeps_the_first_and_says_why_not_the_others() -> None:
    texts = ["Is it red?", "Is it a picture?", "is it RED?", "Is the mug striped?", "red", "Is it blue?"]
    kept, dropped = sift([Question(text) for text in texts], [Question("Does this mug have stripes?")])
    assert [question.text for question in kept] == ["Is it red?", "Is it blue?"]
    assert dropped == [
        ("Is it a picture?", "true_of_all"), ("is it RED?", "duplicate"), ("Is the mug striped?", "repeated"), ("red", "no_question"),
    ]  # fmt: skip


@pytest.mark.security
@pytest.mark.parametrize(
    "piece", ["is it a ", "image ", "are there ", "which of ", "图", "a?", " ", "\n", "is there something ", "这是"]
)
def test_long_texts_take_no_time(piece: str) -> None:
    start = time.process_time()
    assert form_fault(Question(piece * 100_000)) is not None
    form_fault(Question((piece * 499)[:499]), max_words=1000)
    assert time.process_time() - start < 1

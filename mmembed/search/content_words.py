"""Which words of a question say what it is about?"""

from __future__ import annotations

import re
import unicodedata

from mmembed.search.lexical_tokens import tokenise

_EMPTY_WORDS = frozenset(
    """a an the of in on at to for from by with as and or but is are was were be been being do does did has have had can could
    will would should may might must what which who whom whose when where why how that this these those it its he she they
    him her his their them there if than then so not no yes about into over under between during many much some any also
    и в во на с со к ко по за из у от до о об при для как что это кто где когда почему зачем какой какая какие какое каких
    чем сколько ли не ни бы же или а но то так все всё его её ее их он она оно они был была было были есть быть является""".split()
)
# Words that ask and words that only tie others together; cut out before characters are paired.
_ASKING = re.compile(
    "什么|怎么样|怎样|怎么|如何|为什么|为何|何时|何年|何种|多少|哪些|哪个|哪家|哪种|哪里|哪年|哪一|几个|是否|能否|请问|谈谈|解释|描述"
    "|简述|说明|列举|介绍|请|是|的|了|在|和|与|及|对|有|被|由|为|从|到|中"
)


def own_words(text: str) -> list[str]:
    """The tokens of a text that say what it is about: words, and pairs of characters where a script has no spaces.

    Args:
        text: a question or another text in English, Russian or Chinese; of other languages every word is one's own.

    Example:
        >>> own_words("What is the colour of its handle?"), own_words("它的颜色是什么？")
        (['colour', 'handle'], ['它', '颜色'])
    """
    text = _ASKING.sub(" ", unicodedata.normalize("NFKC", text))
    return [token for token in tokenise(text, "bigram") if token not in _EMPTY_WORDS]


def rough_stem(token: str) -> str:
    """The beginning of a word, which its forms share: six letters hold most stems of English, and five of Russian.

    Example:
        >>> rough_stem("stripes") == rough_stem("striped"), rough_stem("полосатый") == rough_stem("полоса")
        (True, True)
    """
    return token[:5] if "а" <= token[:1] <= "ё" else token[:6]

"""``mmembed VERB --config x.yaml --option value``: which job a verb is, imported when it is called.

The exit status is 0 only when the work was done; 2 for a wrong option, file or row, said in one line; 3 for data that leaks;
130 when interrupted; and 1, with a traceback, for a failure that nobody expected.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from typing import NamedTuple

from mmembed import __version__


class Verb(NamedTuple):
    """Where a verb's job is, and what it does in a line."""

    module: str
    function: str
    summary: str


VERBS = {
    "train": Verb("mmembed.jobs.train", "main", "fine-tune an embedding model"),
    "train-image-tower": Verb("mmembed.jobs.train_image_tower", "main", "train a model of images alone"),
    "evaluate": Verb("mmembed.jobs.evaluate", "main", "measure a model, and write a page to look at"),
    "compare": Verb(
        "mmembed.jobs.compare", "main", "say what changed between two measurements, and whether it is noise"
    ),
    "encode": Verb("mmembed.jobs.encode", "main", "turn items into a folder of vectors"),
    "search": Verb("mmembed.jobs.search", "main", "search by words and vectors, or measure what each stage adds"),
    "interact": Verb("mmembed.jobs.interact", "main", "search by answering questions, or measure how well that goes"),
    "train-reranker": Verb(
        "mmembed.jobs.train_reranker", "main", "train a reranker over the candidates of a first stage"
    ),
    "index": Verb("mmembed.jobs.index", "main", "build a search index, and measure what its compression keeps"),
    "mine": Verb("mmembed.jobs.mine", "main", "find hard negatives for pairs"),
    "synthesize": Verb(
        "mmembed.jobs.synthesize", "main", "make training pairs: questions of documents, negatives of queries"
    ),
    "preferences": Verb(
        "mmembed.jobs.preferences", "main", "pair better with worse questions of dialogues, to train on"
    ),
    "dpo": Verb("mmembed.jobs.dpo", "main", "train a questioner by preference, on pairs of questions"),
    "convert": Verb("mmembed.jobs.convert", "main", "convert an original checkpoint to a model folder"),
    "check-data": Verb(
        "mmembed.jobs.check_data", "main", "find what leaks, repeats, disagrees or cannot be read in data"
    ),
    "convert-data": Verb("mmembed.jobs.convert_data", "main", "read data in one format and write it in another"),
    "autotrain": Verb("mmembed.jobs.autotrain", "main", "write pairs of texts as a project of AutoTrain, and run it"),
    "status": Verb("mmembed.jobs.status", "main", "show how far a run is: stages, step, rate, time left, last metrics"),
    "catalogue": Verb("mmembed.jobs.catalogue", "main", "write a drawn demonstration catalogue to a folder"),
    "export": Verb("mmembed.jobs.export", "main", "write ONNX graphs that give what the model gives"),
    "push": Verb("mmembed.jobs.push", "main", "publish a model on the Hub, or see what would be published"),
    "serve": Verb("mmembed.jobs.serve", "main", "answer over HTTP: encode, search, rerank, OpenAI's embeddings"),
    "browse": Verb("mmembed.jobs.browse", "main", "open a page over an index, or one that asks back"),
    "env": Verb("mmembed.jobs.env", "main", "print the versions that a bug report needs"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: The words after ``mmembed``; None takes them from ``sys.argv``.

    Returns:
        The exit status: 0 done, 1 failed, 2 a wrong option or input, 3 data that leaks, 130 interrupted.

    Raises:
        SystemExit: With status 0, after a verb's ``--help`` or ``--print_config``.
        Exception: Whatever a job did not expect; its traceback is for the developer. With ``--debug`` before the verb,
            also the errors that are otherwise said in one line.

    Example:
        >>> main(["--version"]) == 0
        mmembed ...
        True
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = words[:1] == ["--debug"]
    words = words[debug:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"mmembed {__version__}")
        return 0
    name, *rest = words
    if name not in VERBS:
        return _refuse("mmembed", _unknown(name))
    try:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        verb = VERBS[name]
        return int(getattr(importlib.import_module(verb.module), verb.function)(rest))
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"mmembed {name}: interrupted", file=sys.stderr)
        return 130
    except ValueError as error:
        if debug or not _is_ours(error):
            raise
        return _refuse(f"mmembed {name}", str(error), getattr(error, "exit_status", 2))


def _is_ours(error: ValueError) -> bool:
    # OptionsError, DataError, ImageError, …: each says what was found, where, and what to do, so a traceback adds nothing.
    return type(error).__module__.partition(".")[0] == "mmembed"


def _refuse(command: str, message: str, status: int = 2) -> int:
    print(f"{command}: error: {message}", file=sys.stderr)
    return status


def _unknown(name: str) -> str:
    from mmembed.jobs.options import nearest

    guess = nearest(name, VERBS)
    return f"unknown verb {name!r}; " + (f"did you mean {guess!r}?" if guess else f"the verbs are {', '.join(VERBS)}")


def _help() -> str:
    width = max(map(len, VERBS))
    return "\n".join(
        [
            "usage: mmembed [--debug] VERB [--config FILE.yaml] [--OPTION VALUE ...]",
            "",
            "verbs:",
            *(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()),
            "",
            "`mmembed VERB --help` lists a verb's options, `--print_config` the options that would be used.",
            "`--debug` keeps the traceback of an error that is otherwise said in one line; `--version` prints the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

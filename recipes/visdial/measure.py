"""Measure ways to ask in a world of captions: which question, with what knowledge of how people answer.

    python recipes/visdial/measure.py --config recipes/visdial/coco_captions.yaml --captions plugir_coco_captions.json \\
        --output_dir runs/visdial

Images are five captions: three are the index, two are what the person who answers sees, who begins with three words of the fourth. Every
second image, from the second on, is a target; how people answer is learnt from the others alone. `--part validation` learns from four fifths of
these and plays the rest of them. Each round of each way is kept in OUTPUT_DIR/<part>/<way>.jsonl: a run that was interrupted goes on there.
Prints a table with noise controls, and every way's difference from the first, paired by target.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import yaml
from datasets import Dataset
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

from mmembed import AttributeQuestioner, Embeddings, InteractiveSession, encode_dataset, load_model
from mmembed.data.formats import caption_lists
from mmembed.data.keys import permutation
from mmembed.evaluation.rounds import compare_rounds, measure_rounds, rounds_table
from mmembed.interactive.answer_channel import AnswerChannel
from mmembed.interactive.answerers import AttributeAnswerer
from mmembed.interactive.attribute_concepts import attribute_vectors, find_concepts, with_concepts
from mmembed.interactive.attribute_learning import learn_probabilities
from mmembed.interactive.attribute_table import AttributeTable, Slot
from mmembed.interactive.plain_questioners import PlainQuestioner
from mmembed.interactive.rankers import TextRanker
from mmembed.interactive.session_log import SessionLog
from mmembed.interactive.simulation import Task, play_dialogues
from mmembed.jobs.model_choice import resolve_name
from mmembed.pages import text_table

WAYS = {
    "EIG": "a word, by the expected gain under a channel for each word: the reference",
    "random": "a word at random, weighed as the reference",
    "frequent": "the word that most of the belief has",
    "half": "the word that half of the belief has",
    "two steps": "EIG of this question and the next",
    "counted": "EIG, the channel by how many captions tell the word",
    "learnt": "EIG, the channel from these counts and the captions' vectors",
    "concepts 15 counted": "EIG over words and concepts of up to 15 words, channel by counts",
    "concepts 15": "EIG over words and concepts of up to 15 words, channel from counts and vectors",
    "concepts 40": "the same of up to 40 words",
    "oracle": "EIG, a person who says what the index says",
}


class CaptionWorld:
    """The captions as candidates, words and answers."""

    def __init__(self, path: Path, options: dict) -> None:
        queries = caption_lists.read(path).queries
        captions: dict[str, list[str]] = {}
        for image, text in zip(queries["group"][:], queries["text"][:], strict=True):
            captions.setdefault(image, []).append(text)
        self.ids, self.captions, self.options = list(captions), list(captions.values()), options
        self.stop = ENGLISH_STOP_WORDS | set(options["stop_words"].split())
        shown = [" ".join(own[number] for number in options["index_captions"]) for own in self.captions]
        self.vectorizer = TfidfVectorizer(tokenizer=self.words, token_pattern=None, lowercase=False)
        self.documents = self.vectorizer.fit_transform(shown).T.tocsr()  # (words, images)
        seen = [len(images.indices) for images in self.documents]
        kept = [options["min_df"] <= count <= options["max_df"] for count in seen]
        self.terms = tuple(word for word, keep in zip(self.vectorizer.get_feature_names_out(), kept) if keep)

    def words(self, text: str) -> list[str]:
        return [word for word in re.findall("[a-z]+", text.lower()) if word not in self.stop and len(word) > 1]

    def query(self, image: int) -> str:
        own = self.words(self.captions[image][self.options["query_caption"]])
        return " ".join(own[: self.options["query_words"]]) or "picture"

    def scores(self, query: str) -> np.ndarray:
        """The TF-IDF cosine of every image with a text; with `ids` it is what a `TextRanker` needs."""
        return (self.vectorizer.transform([query]) @ self.documents).toarray()[0]

    def table(self, numbers: list[int]) -> AttributeTable:
        """Which words these captions of each image hold."""
        place = {word: at for at, word in enumerate(self.terms)}
        held = np.zeros((len(self.ids), len(self.terms)), dtype=bool)
        for row, own in enumerate(self.captions):
            for number in numbers:
                held[row, [place[word] for word in self.words(own[number]) if word in place]] = True
        return AttributeTable(self.ids, [Slot("word", self.terms, exclusive=False)], [held])

    def vectors(self, folder: Path) -> Embeddings:
        """The mean vector of each image's captions of the index."""
        numbers = self.options["index_captions"]
        rows = [(f"{id}#{n}", own[n]) for id, own in zip(self.ids, self.captions, strict=True) for n in numbers]
        items = Dataset.from_dict({"id": [id for id, _ in rows], "text": [text for _, text in rows]})
        model = load_model(resolve_name(self.options["text_model"]))
        each = np.asarray(encode_dataset(model, items, folder).vectors).reshape(len(self.ids), len(numbers), -1)
        mean = each.mean(axis=1)
        return Embeddings(self.ids, mean / np.linalg.norm(mean, axis=1, keepdims=True))


def facts(table: AttributeTable) -> np.ndarray:
    return table.probabilities(np.arange(len(table)))


def questioner(way: str, world: CaptionWorld, known: np.ndarray, folder: Path) -> tuple[object, AttributeTable]:
    """Who asks, and what the person who answers goes by.

    Args:
        way: one of WAYS.
        world: the captions.
        known: images whose answers may be learnt from.
        folder: where vectors are kept.
    """
    options = world.options
    index, held_out = world.table(options["index_captions"]), world.table(options["answer_captions"])
    if way == "oracle":
        certain = AnswerChannel.of_noise(len(index.attributes), error=0.0, unknown=0.0)
        return AttributeQuestioner(index, certain, kinds=("yes_no",), min_gain=0), index
    if way in ("EIG", "random", "frequent", "half", "two steps"):
        channel = AnswerChannel.fit(facts(index)[known], facts(held_out)[known], strength=options["strength"])
        ahead = 10 if way == "two steps" else 0
        asks = AttributeQuestioner(index, channel, kinds=("yes_no",), min_gain=0, look_ahead=ahead)
        return (asks if way in ("EIG", "two steps") else PlainQuestioner(asks, way)), held_out
    with_vectors = way in ("learnt", "concepts 15", "concepts 40")
    vectors = world.vectors(folder) if with_vectors or way.startswith("concepts") else None
    concepts = []
    if way.startswith("concepts"):
        largest = int(way.split()[1])
        concepts = find_concepts(index, attribute_vectors(index, vectors), largest=largest)
    told = [facts(with_concepts(world.table([number]), concepts)) for number in options["index_captions"]]
    held_out = with_concepts(held_out, concepts)
    probabilities = learn_probabilities(
        np.sum(told, axis=0),
        known,
        facts(held_out)[known],
        features=vectors.vectors if with_vectors else None,
        evidence_penalty=options["evidence_penalty"],
        feature_penalty=options["feature_penalty"],
    )
    starts = np.cumsum([0, *(len(slot.values) for slot in held_out.slots)])
    parts = [probabilities[:, start:stop] for start, stop in zip(starts, starts[1:])]
    learnt = AttributeTable(held_out.ids, held_out.slots, parts)
    certain = AnswerChannel.of_noise(len(learnt.attributes), error=0.0, unknown=0.0)
    return AttributeQuestioner(learnt, certain, kinds=("yes_no",), min_gain=0), held_out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML with the settings")
    parser.add_argument("--captions", type=Path, required=True, help="PlugIR's coco_captions.json")
    parser.add_argument("--output_dir", type=Path, required=True, help="logs, vectors and metrics.json go here")
    parser.add_argument("--part", choices=("validation", "test"), default="test", help="which targets are played")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="the first is the reference")
    parser.add_argument("--limit", type=int, help="play so many targets, drawn by chance")
    words = parser.parse_args()
    options = yaml.safe_load(words.config.read_text(encoding="utf-8"))
    world = CaptionWorld(words.captions, options)
    known, targets = np.arange(0, len(world.ids), 2), np.arange(1, len(world.ids), 2)
    if words.part == "validation":
        known = known[permutation(len(known), seed=0, epoch=0)]
        known, targets = np.sort(known[len(known) // 5 :]), np.sort(known[: len(known) // 5])
    if words.limit:
        targets = np.sort(targets[permutation(len(targets), seed=1, epoch=0)[: words.limit]])
    tasks = [Task(world.ids[image], world.ids[image], world.query(image)) for image in targets]
    data = hashlib.sha256(words.captions.read_bytes()).hexdigest()
    print(f"{len(world.ids)} images, {len(world.terms)} words, {len(known)} known, {len(tasks)} targets", flush=True)
    scores = np.stack([world.scores(task.query) for task in tasks])
    measured = {}
    for way in words.ways:
        asks, sees = questioner(way, world, known, words.output_dir / "vectors")
        session = InteractiveSession(
            TextRanker(world), asks, pool=options["pool"], depth=len(world.ids), temperature=options["temperature"],
            max_rounds=options["rounds"], min_gain=0,
        )  # fmt: skip
        answerer = AttributeAnswerer(sees, source="oracle" if way == "oracle" else "held out")
        about = {"way": way, "part": words.part, "limit": words.limit, "data": data, **options}
        with SessionLog(words.output_dir / words.part / f"{way.replace(' ', '_')}.jsonl", about) as log:
            played = play_dialogues(session, tasks, answerer, log=log)
        measured[way] = measure_rounds([one.ranks for one in played], scores, targets, rounds=options["rounds"])
        show(way, measured)
    table = rounds_table(measured, reference=words.ways[0])
    print(f"\n{text_table(table.rows, table.header)}\n\n{table.caption}")
    write(words.output_dir / words.part / "metrics.json", measured, words.ways)
    return 0


def show(way: str, measured: dict) -> None:
    """A way's differences from the first, as soon as it is played."""
    first = next(iter(measured))
    print(f"{way}: {WAYS[way]}", flush=True)
    for metric in ("bri", "hits@10", "recall@10", "mrr"):
        by = compare_rounds(measured[way].ranks, measured[first].ranks, metric)
        print(f"    {metric} − {first}: {by.mean:+.4f} [{by.low:+.4f}, {by.high:+.4f}]", flush=True)


def write(path: Path, measured: dict, ways: list[str]) -> None:
    """Every number, for the README."""
    from mmembed.evaluation.rounds import rounds_metrics

    path.write_text(json.dumps({way: rounds_metrics(measured[way], ks=(1, 5, 10)) for way in ways}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

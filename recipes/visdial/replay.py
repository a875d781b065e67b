"""Replay released dialogues: what each round's question and answer do to the ranking, and what noise would have done.

    python recipes/visdial/replay.py --dialogues DIR                                         # words instead of pictures
    python recipes/visdial/replay.py --dialogues DIR --model MODEL --embeddings FOLDER       # the pictures' vectors

DIR holds the files of ChatIR and PlugIR: VisDial_v1.0_queries_val.json (people ask and answer), ChatGPT_BLIP2.json and
reconstructed_queries.json (PlugIR's rewrites), with or without `chatir_` and `plugir_` in front. With --embeddings every image of the folder
is a candidate, such as ChatIR's 50,000 of COCO, encoded with `mmembed encode`; without, the candidates are the texts of ChatGPT_BLIP2's
rounds, without the caption: that tests the reading and the metrics, and says nothing of pictures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from mmembed import Embeddings, InteractiveSession, load_model
from mmembed.data.formats import dialogue
from mmembed.evaluation.rounds import measure_rounds, rounds_table
from mmembed.interactive.answerers import ReplayAnswerer, ReplayQuestioner
from mmembed.interactive.query_state import joined_text
from mmembed.interactive.rankers import TextRanker, VectorRanker
from mmembed.interactive.simulation import Task, play_dialogues
from mmembed.jobs.model_choice import resolve_name
from mmembed.pages import text_table

EVERY = ("yes", "no", "value", "unknown")  # ChatIR joins all answers


class Words:
    """Texts as candidates, scored by the TF-IDF cosine."""

    def __init__(self, ids: list[str], texts: list[str]) -> None:
        self.ids = ids
        self.vectorizer = TfidfVectorizer()
        self.documents = self.vectorizer.fit_transform(texts).T.tocsr()

    def scores(self, query: str) -> np.ndarray:
        return (self.vectorizer.transform([query]) @ self.documents).toarray()[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=Path, required=True, help="folder of the released files")
    parser.add_argument("--model", help="model of the texts")
    parser.add_argument("--embeddings", type=Path, help="vectors of the pictures, by path, under this model")
    parser.add_argument("--limit", type=int, help="the first so many dialogues")
    words = parser.parse_args()
    files = {}
    for path in sorted(words.dialogues.glob("*.json")):
        files[path.stem.removeprefix("chatir_").removeprefix("plugir_")] = path
    people = dialogue.read(files["VisDial_v1.0_queries_val"]).queries
    rounds = {image: turns for image, turns in zip(people["group"][:], people["dialog"][:], strict=True)}
    images = list(rounds)[: words.limit]
    if words.embeddings is not None:
        vectors = Embeddings.load(words.embeddings)
        model = load_model(resolve_name(words.model))

        def ranker(text):
            return VectorRanker(model, vectors, query_text=text)
    else:
        others = dialogue.read(files["ChatGPT_BLIP2"]).queries
        texts = [" ".join(turns[1:]) for turns in others["dialog"][:]]
        index = Words(others["group"][:], texts)

        def ranker(text):
            return TextRanker(index, text)

    replay = ReplayAnswerer(rounds)
    tasks = [Task(image, image, rounds[image][0]) for image in images]

    def joined(query, turns):
        return joined_text(query, turns, labels=EVERY)

    session = InteractiveSession(ranker(joined), ReplayQuestioner([]), depth=10**6, believed="none")
    played = play_dialogues(
        session, tasks, replay, questioner_of=lambda task: ReplayQuestioner(replay.questions(task.target_id))
    )
    ranks = {"people ask and answer": [one.ranks for one in played]}
    if "reconstructed_queries" in files:
        rewrites = dialogue.read(files["reconstructed_queries"]).queries
        ranks["PlugIR's rewrites"] = rewritten(session, dict(zip(rewrites["group"][:], rewrites["dialog"][:])), images)
    found = session.ranker
    place = {id: row for row, id in enumerate(found.ids)}
    scores = np.stack([found.scores(task.query, []) for task in tasks])
    columns = [place[image] for image in images]
    measured = {name: measure_rounds(own, scores, columns) for name, own in ranks.items()}
    table = rounds_table(measured, reference="people ask and answer")
    print(
        f"\n{len(found.ids)} candidates, {len(images)} dialogues\n\n{text_table(table.rows, table.header)}\n\n{table.caption}"
    )
    return 0


def rewritten(session: InteractiveSession, captions: dict[str, list[str]], images: list[str]) -> list[list[float]]:
    """The ranks of targets where each round's query is one caption of all that was said."""
    return [[session.start(text, target_id=image).rank_of(image) for text in captions[image]] for image in images]


if __name__ == "__main__":
    sys.exit(main())

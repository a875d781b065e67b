"""What FlagEmbedding itself makes of folders, run in a process of its own: `python flag_embedding_peer.py tasks.json answers.json`.

Each task is one of
    {"train": "embedder" | "reranker", "model": folder, "data": file.jsonl, "output": folder, "pooling": …}
    {"encode": folder, "queries": […], "documents": […], "arguments": {…}, "class": "FlagModel" or another}
    {"score": folder, "pairs": [[…, …], …], "arguments": {…}}
and has its answer, vectors or scores, in the list that is written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def train(task: dict[str, Any]) -> None:
    settings = {
        "output_dir": task["output"], "use_cpu": True, "max_steps": 3, "learning_rate": 5e-3, "report_to": "none",
        "per_device_train_batch_size": 2, "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    lengths = {"train_data": [task["data"]], "train_group_size": 2, "query_max_len": 12, "passage_max_len": 20}
    if task["train"] == "embedder":
        from FlagEmbedding.abc.finetune.embedder import (
            AbsEmbedderDataArguments,
            AbsEmbedderModelArguments,
            AbsEmbedderTrainingArguments,
        )
        from FlagEmbedding.finetune.embedder.encoder_only.base import EncoderOnlyEmbedderRunner

        EncoderOnlyEmbedderRunner(
            AbsEmbedderModelArguments(model_name_or_path=task["model"]),
            AbsEmbedderDataArguments(**lengths),
            AbsEmbedderTrainingArguments(sentence_pooling_method=task["pooling"], **settings),
        ).run()
    else:
        from FlagEmbedding.abc.finetune.reranker import (
            AbsRerankerDataArguments,
            AbsRerankerModelArguments,
            AbsRerankerTrainingArguments,
        )
        from FlagEmbedding.finetune.reranker.encoder_only.base import EncoderOnlyRerankerRunner

        EncoderOnlyRerankerRunner(
            AbsRerankerModelArguments(model_name_or_path=task["model"]),
            AbsRerankerDataArguments(**lengths),
            AbsRerankerTrainingArguments(**settings),
        ).run()


def answer(task: dict[str, Any]) -> Any:
    import FlagEmbedding

    if "train" in task:
        return train(task)
    if "encode" in task:
        model = getattr(FlagEmbedding, task["class"])(
            task["encode"], use_fp16=False, devices="cpu", **task["arguments"]
        )
        both = [model.encode_queries(task["queries"]), model.encode_corpus(task["documents"])]
        return [(one["dense_vecs"] if isinstance(one, dict) else one).tolist() for one in both]
    reranker = FlagEmbedding.FlagReranker(task["score"], use_fp16=False, devices="cpu", **task["arguments"])
    return reranker.compute_score([tuple(pair) for pair in task["pairs"]])


if __name__ == "__main__":
    tasks, answers = (Path(name) for name in sys.argv[1:])
    answers.write_text(json.dumps([answer(task) for task in json.loads(tasks.read_text())]))

"""mmembed: from a catalogue of images and texts to a published, measured, compressed embedding model.

The public names are imported when they are first used: ``import mmembed`` loads neither torch nor datasets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmembed.bridges.elasticsearch import search_elasticsearch, write_elasticsearch
    from mmembed.bridges.lancedb import search_lancedb, write_lancedb
    from mmembed.bridges.mteb import mteb_model
    from mmembed.bridges.qdrant import search_qdrant, write_qdrant
    from mmembed.chat_endpoint import ChatEndpoint
    from mmembed.conversion.converting import convert_checkpoint
    from mmembed.data.catalogue import demo_catalogue
    from mmembed.data.checks import check_data
    from mmembed.data.collection import Collection
    from mmembed.data.data_report import DataReport
    from mmembed.data.named_formats import read_collection, write_collection
    from mmembed.data.reading import read_items, read_pairs
    from mmembed.data.splits import split_by_group
    from mmembed.data.writing import write_items, write_pairs
    from mmembed.dataset_encoding import encode_dataset
    from mmembed.embedding_formats import read_embeddings, write_embeddings
    from mmembed.embeddings import Embeddings
    from mmembed.encode import encode_items
    from mmembed.evaluation.comparison import compare_results
    from mmembed.evaluation.embedding_health import embedding_health
    from mmembed.evaluation.matching import evaluate_matching
    from mmembed.evaluation.matching_fit import fit_matching
    from mmembed.evaluation.matching_rule import MatchingRule
    from mmembed.evaluation.probes import evaluate_probes
    from mmembed.evaluation.retrieval import evaluate_retrieval
    from mmembed.evaluation.rounds import evaluate_rounds
    from mmembed.evaluation.zero_shot import evaluate_zero_shot
    from mmembed.export.evaluation_results import write_evaluation_results
    from mmembed.export.hub import push_to_hub, save_model
    from mmembed.export.onnx import export_onnx, quantize_onnx
    from mmembed.export.onnx_embedder import OnnxEmbedder
    from mmembed.images import load_image
    from mmembed.interactive.attribute_questioner import AttributeQuestioner
    from mmembed.interactive.endpoint_questioner import EndpointQuestioner
    from mmembed.interactive.preferences import build_preference_pairs
    from mmembed.interactive.session import InteractiveSession
    from mmembed.interactive.vision_language_questioner import VisionLanguageQuestioner
    from mmembed.mining.hard_negatives import mine_hard_negatives
    from mmembed.mining.question_synthesis import synthesize_questions
    from mmembed.mining.rerank_synthesis import synthesize_rerank_pairs
    from mmembed.mining.teacher_scores import add_teacher_scores
    from mmembed.models.loading import load_model
    from mmembed.rerankers.reranking import rerank
    from mmembed.rerankers.vision_language import load_vlm_reranker
    from mmembed.search.index import Index
    from mmembed.search.pipeline import SearchPipeline
    from mmembed.training.arguments import EmbeddingTrainingArguments
    from mmembed.training.stages import Stage, run_stages
    from mmembed.training.trainer import EmbeddingTrainer

_HOMES = {
    "AttributeQuestioner": "mmembed.interactive.attribute_questioner",
    "ChatEndpoint": "mmembed.chat_endpoint",
    "Collection": "mmembed.data.collection",
    "DataReport": "mmembed.data.data_report",
    "Embeddings": "mmembed.embeddings",
    "EmbeddingTrainer": "mmembed.training.trainer",
    "EmbeddingTrainingArguments": "mmembed.training.arguments",
    "Index": "mmembed.search.index",
    "InteractiveSession": "mmembed.interactive.session",
    "SearchPipeline": "mmembed.search.pipeline",
    "EndpointQuestioner": "mmembed.interactive.endpoint_questioner",
    "Stage": "mmembed.training.stages",
    "VisionLanguageQuestioner": "mmembed.interactive.vision_language_questioner",
    "add_teacher_scores": "mmembed.mining.teacher_scores",
    "build_preference_pairs": "mmembed.interactive.preferences",
    "check_data": "mmembed.data.checks",
    "compare_results": "mmembed.evaluation.comparison",
    "convert_checkpoint": "mmembed.conversion.converting",
    "demo_catalogue": "mmembed.data.catalogue",
    "embedding_health": "mmembed.evaluation.embedding_health",
    "encode_dataset": "mmembed.dataset_encoding",
    "encode_items": "mmembed.encode",
    "MatchingRule": "mmembed.evaluation.matching_rule",
    "OnnxEmbedder": "mmembed.export.onnx_embedder",
    "evaluate_matching": "mmembed.evaluation.matching",
    "evaluate_probes": "mmembed.evaluation.probes",
    "evaluate_retrieval": "mmembed.evaluation.retrieval",
    "evaluate_rounds": "mmembed.evaluation.rounds",
    "evaluate_zero_shot": "mmembed.evaluation.zero_shot",
    "export_onnx": "mmembed.export.onnx",
    "fit_matching": "mmembed.evaluation.matching_fit",
    "load_image": "mmembed.images",
    "load_model": "mmembed.models.loading",
    "load_vlm_reranker": "mmembed.rerankers.vision_language",
    "mine_hard_negatives": "mmembed.mining.hard_negatives",
    "mteb_model": "mmembed.bridges.mteb",
    "push_to_hub": "mmembed.export.hub",
    "quantize_onnx": "mmembed.export.onnx",
    "read_collection": "mmembed.data.named_formats",
    "read_embeddings": "mmembed.embedding_formats",
    "read_items": "mmembed.data.reading",
    "read_pairs": "mmembed.data.reading",
    "rerank": "mmembed.rerankers.reranking",
    "run_stages": "mmembed.training.stages",
    "save_model": "mmembed.export.hub",
    "split_by_group": "mmembed.data.splits",
    "synthesize_questions": "mmembed.mining.question_synthesis",
    "synthesize_rerank_pairs": "mmembed.mining.rerank_synthesis",
    "write_collection": "mmembed.data.named_formats",
    "write_embeddings": "mmembed.embedding_formats",
    "write_evaluation_results": "mmembed.export.evaluation_results",
    "write_items": "mmembed.data.writing",
    "write_pairs": "mmembed.data.writing",
    "search_elasticsearch": "mmembed.bridges.elasticsearch",
    "search_lancedb": "mmembed.bridges.lancedb",
    "search_qdrant": "mmembed.bridges.qdrant",
    "write_elasticsearch": "mmembed.bridges.elasticsearch",
    "write_lancedb": "mmembed.bridges.lancedb",
    "write_qdrant": "mmembed.bridges.qdrant",
}

# Written out, so that type checkers and editors see the names; tests/test_init.py holds it to _HOMES.
__all__ = [
    "AttributeQuestioner",
    "ChatEndpoint",
    "Collection",
    "DataReport",
    "EmbeddingTrainer",
    "EmbeddingTrainingArguments",
    "Embeddings",
    "EndpointQuestioner",
    "Index",
    "InteractiveSession",
    "MatchingRule",
    "OnnxEmbedder",
    "SearchPipeline",
    "Stage",
    "VisionLanguageQuestioner",
    "add_teacher_scores",
    "build_preference_pairs",
    "check_data",
    "compare_results",
    "convert_checkpoint",
    "demo_catalogue",
    "embedding_health",
    "encode_dataset",
    "encode_items",
    "evaluate_matching",
    "evaluate_probes",
    "evaluate_retrieval",
    "evaluate_rounds",
    "evaluate_zero_shot",
    "export_onnx",
    "fit_matching",
    "load_image",
    "load_model",
    "load_vlm_reranker",
    "mine_hard_negatives",
    "mteb_model",
    "push_to_hub",
    "quantize_onnx",
    "read_collection",
    "read_embeddings",
    "read_items",
    "read_pairs",
    "rerank",
    "run_stages",
    "save_model",
    "search_elasticsearch",
    "search_lancedb",
    "search_qdrant",
    "split_by_group",
    "synthesize_questions",
    "synthesize_rerank_pairs",
    "write_collection",
    "write_elasticsearch",
    "write_embeddings",
    "write_evaluation_results",
    "write_items",
    "write_lancedb",
    "write_pairs",
    "write_qdrant",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value  # the next use does not come here
        return value
    from difflib import get_close_matches

    near = [] if name.startswith("_") else get_close_matches(name, __all__, n=1)
    raise AttributeError(
        f"module 'mmembed' has no attribute {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

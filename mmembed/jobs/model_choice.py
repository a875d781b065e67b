"""Which model a run trains: one that is named, one made of two towers, or a small one made for its texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.option_errors import check_names
from mmembed.jobs.options import OptionsError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from mmembed.jobs.train_options import TrainOptions
    from mmembed.jobs.training_data import Part, RunData


def choose_model(options: TrainOptions, train: Part) -> SentenceTransformer:
    """The model that the options name or describe.

    Args:
        options: `model`, or `text_tower` and `image_tower`, or neither; and `model_arguments`.
        train: The training part, whose texts a new tokenizer learns from.

    Returns:
        The model before training.

    Raises:
        OptionsError: If the options contradict each other or a named package is not installed.
    """
    from mmembed.models import DualEncoderConfig
    from mmembed.models.dual_encoder.building import (
        build_dual_encoder,
        dual_encoder_from_towers,
        dual_encoder_with_new_text_tower,
    )

    if options.model is not None:
        if options.text_tower or options.image_tower or options.model_arguments:
            raise OptionsError(
                "give model, or text_tower, image_tower and model_arguments for a new dual encoder, not both"
            )
        return load_named(options.model)
    if options.text_tower and not options.image_tower:
        raise OptionsError("text_tower needs an image_tower beside it")
    kind = (
        dual_encoder_from_towers
        if options.text_tower
        else dual_encoder_with_new_text_tower
        if options.image_tower
        else build_dual_encoder
    )
    check_names("model_arguments", options.model_arguments, kind, DualEncoderConfig)
    if options.text_tower and options.image_tower:
        towers = [resolve_name(name) for name in (options.text_tower, options.image_tower)]
        return dual_encoder_from_towers(*towers, **options.model_arguments)
    texts = [text for text in train.queries["text"][:] if text]
    if options.image_tower:
        return dual_encoder_with_new_text_tower(texts, resolve_name(options.image_tower), **options.model_arguments)
    if options.items is None:
        from mmembed.jobs.catalogue_defaults import MODEL

        return build_dual_encoder(texts, **{**MODEL, **options.model_arguments})
    return build_dual_encoder(texts, **options.model_arguments)


def load_named(name: str) -> SentenceTransformer:
    """`load_model` of a folder, a Hub name, or package:NAME/FOLDER."""
    from mmembed.models.loading import load_model

    return load_model(resolve_name(name))


def load_encoder(name: str, **options: Any) -> SentenceTransformer:
    """What encodes: a model as `load_named` takes it, or the graphs of an ONNX export.

    Args:
        name: Folder, Hub name, package:NAME/FOLDER, or the folder of an export.
        **options: Arguments of `load_model`; an export takes none of them.

    Raises:
        OptionsError: If an export is told how to compute.
    """
    from mmembed.export.onnx_embedder import OnnxEmbedder, is_export
    from mmembed.models.loading import load_model

    folder = resolve_name(name)
    if not is_export(folder):
        return load_model(folder, **options)
    if options.get("model_kwargs") or options.get("revision"):
        raise OptionsError(f"{name} is an export, which computes as it was written; leave precision and revision out")
    return OnnxEmbedder(folder)


def fingerprints(model: Any) -> set[str]:
    """Whose vectors a model may search among: its own and, of an export, those of the model that was exported.

    Args:
        model: What `load_encoder` gave.
    """
    from mmembed.encoding_fingerprints import model_fingerprint

    about = getattr(model, "about", None) or {}
    return {model_fingerprint(model), about.get("model_fingerprint", "")} - {""}


def resolve_name(name: str) -> str:
    """`package:NAME/FOLDER` is a folder inside an installed Python package; anything else is what it says.

    Example:
        >>> resolve_name("owner/model")
        'owner/model'
        >>> resolve_name("package:not_installed/model")
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: package:not_installed/model: the Python package 'not_installed' ...
    """
    if not name.startswith("package:"):
        return name
    from importlib.resources import files

    package, _, folder = name.removeprefix("package:").partition("/")
    try:
        return str(files(package).joinpath(folder))
    except ModuleNotFoundError:
        raise OptionsError(f"{name}: the Python package {package!r} is not installed") from None


def stored_image_features(options: TrainOptions, args: Any, model: SentenceTransformer, data: RunData) -> Any:
    """The frozen vision tower's activations of all images that the run reads; None where that was not asked for.

    Args:
        options: `store_image_features` and where they are kept.
        args: The training arguments.
        model: A dual encoder with a frozen vision tower; its image statistics are fitted on the training part.
        data: The run's data.

    Returns:
        `StoredImageFeatures`, or None.
    """
    if not options.store_image_features:
        return None
    from datasets import concatenate_datasets

    from mmembed.training.image_features import store_image_features

    tables: dict[int, Any] = {}
    for part in data.parts.values():
        for table, use in ((part.queries, options.query_use), (part.documents, options.document_use)):
            if use != "text":
                tables.setdefault(id(table), table.select_columns(["id", "image"]))
    with args.main_process_first(desc="image features"):
        stored = store_image_features(
            model,
            concatenate_datasets(list(tables.values())),
            options.features_dir or Path(args.output_dir) / "features",
            reader=data.reader,
            num_views=options.image_feature_views,
            show_progress_bar=not args.disable_tqdm,
        )
    encoder: Any = model.transformers_model
    if encoder is not None and getattr(encoder.config, "image_standardise", False):
        ids = [id for id in data.parts["train"].documents["id"][:] if id in stored]
        encoder.fit_image_statistics(stored.load(ids, [0] * len(ids)))
    return stored


def stored_text_features(options: TrainOptions, args: Any, model: SentenceTransformer, data: RunData) -> Any:
    """The frozen text tower's features of all training texts; None where that was not asked for.

    Args:
        options: `store_text_features` and where they are kept.
        args: The training arguments.
        model: A dual encoder with a frozen text tower; its text statistics are fitted on these texts.
        data: The run's data.

    Returns:
        `StoredTextFeatures`, or None.
    """
    if not options.store_text_features:
        return None
    from mmembed.training.text_features import store_text_features

    train = data.parts["train"]
    sides = ((train.queries, options.query_use), (train.documents, options.document_use))
    tables = [table for table, use in sides if use != "image"]
    texts = [text for table in tables for text in table["text"][:] if text]
    for table in tables:
        if "text_parts" in table.column_names:
            texts += [part["text"] for parts in table["text_parts"][:] for part in parts or []]
    with args.main_process_first(desc="text features"):
        stored = store_text_features(
            model,
            texts,
            options.features_dir or Path(args.output_dir) / "features",
            show_progress_bar=not args.disable_tqdm,
        )
    encoder: Any = model.transformers_model
    if encoder is not None and getattr(encoder.config, "text_standardise", False):
        encoder.fit_text_statistics(stored.load(sorted(set(texts)))[:, 0])
    return stored

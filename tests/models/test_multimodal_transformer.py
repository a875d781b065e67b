"""Each stock family with mixed rows, against transformers itself; being stock on disk; being safe with texts."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import _create_minibatch
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel, AutoProcessor

from mmembed.models.dual_encoder.building import build_dual_encoder
from mmembed.models.loading import load_model
from mmembed.models.multimodal_transformer import MultimodalTransformer, adopt, plain_text

from .tiny_models import TWO_TOWERS, WORDS, image, rows, tokenizer

TEXTS, IMAGES, BOTH = [0, 3], [1, 4], [2, 5]


@pytest.fixture(scope="module")
def models(model_folders: dict[str, Path]) -> dict[str, SentenceTransformer]:
    return {family: load_model(folder, device="cpu") for family, folder in model_folders.items()}


def unit(vectors: torch.Tensor) -> np.ndarray:
    return F.normalize(vectors.detach().float(), dim=-1).numpy()


@torch.no_grad()
def alone_in_transformers(folder: Path, row: dict) -> dict[str, np.ndarray]:
    """What plain transformers gives for each part of a row, all else left out."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    vectors = {}
    if "text" in row:
        if model.config.model_type == "siglip":
            tokens = processor.tokenizer([row["text"]], padding="max_length", max_length=32, return_tensors="pt")
            inputs = {"input_ids": tokens["input_ids"]}
        else:
            inputs = dict(processor.tokenizer([row["text"]], return_tensors="pt"))
        vectors["text"] = unit(model.get_text_features(**inputs).pooler_output)[0]
    if "image" in row:
        pixels = processor.image_processor([row["image"]], return_tensors="pt")["pixel_values"]
        assert pixels.dtype == torch.float32
        vectors["image"] = unit(model.get_image_features(pixel_values=pixels).pooler_output)[0]
    return vectors


@pytest.mark.parametrize("family", TWO_TOWERS)
def test_each_row_of_a_mixed_batch_has_the_vector_of_plain_transformers(family, models, model_folders) -> None:
    vectors = models[family].encode(rows())
    for row, vector in zip(rows(), vectors):
        parts = alone_in_transformers(model_folders[family], row)
        expected = sum(parts.values())  # the mean, up to its length
        assert np.allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    assert np.abs(vectors[0] - vectors[3]).max() > 1e-3  # the tiny models tell rows apart at all


@pytest.mark.parametrize("family", [family for family in TWO_TOWERS if family != "siglip"])
def test_homogeneous_batches_equal_the_stock_module(family, models, model_folders) -> None:
    stock = SentenceTransformer(str(model_folders[family]), device="cpu")
    for picked in (TEXTS, IMAGES):
        batch = [rows()[i] for i in picked]
        assert type(stock[0]) is Transformer
        expected = stock.encode(batch, normalize_embeddings=True)
        assert np.allclose(models[family].encode(batch), expected, atol=1e-5)


def test_what_preprocess_emits(models) -> None:
    features = models["clip"].preprocess(rows())
    assert features["modality"] == "message"
    assert features["input_ids"].dtype == features["attention_mask"].dtype == torch.int64
    assert features["attention_mask"].any(dim=1).tolist() == [True, False, True, True, False, True]
    assert features["pixel_values"].dtype == torch.uint8 and features["pixel_values"].shape == (4, 3, 16, 16)
    assert features["num_images_per_sample"].tolist() == [0, 1, 1, 0, 1, 1]
    assert "token_type_ids" not in features
    only_images = models["clip"].preprocess([{"image": image(1)}] * 2)
    assert only_images["attention_mask"].tolist() == [[0], [0]] and only_images["input_ids"].shape == (2, 1)
    only_texts = models["clip"].preprocess(["a red mug", {"text": "hat", "image": None}])
    assert "pixel_values" not in only_texts and "num_images_per_sample" not in only_texts


def test_pixels_are_the_image_resized_and_not_yet_normalised(models) -> None:
    grey = np.full((40, 40, 3), 77, dtype=np.uint8)
    pixels = models["clip"].preprocess([{"image": grey}])["pixel_values"]
    assert pixels.unique().tolist() == [77]


def test_arguments_of_the_processor_are_honoured(models) -> None:
    module = models["clip"][0]
    long = " ".join(["mug"] * 50)
    assert module.preprocess([long])["input_ids"].shape[1] == 32
    assert module.preprocess([long], max_length=6)["input_ids"].shape[1] == 6
    padded = {"text": {"padding": "max_length", "max_length": 20}}
    assert module.preprocess(["mug"], processing_kwargs=padded)["input_ids"].shape[1] == 20
    smaller = {"image": {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}}
    assert module.preprocess([{"image": image(1)}], processing_kwargs=smaller)["pixel_values"].shape[-1] == 8
    own = module.preprocess([{"image": image(1)}], processing_kwargs={"image": {"image_mean": [0.0, 0.0, 0.0]}})
    assert own["pixel_values"].dtype == torch.float32  # scaled in another way: left to the processor


def test_a_prompt_goes_before_texts_only(models) -> None:
    model = models["chinese_clip"]
    given = model.preprocess([{"text": "red mug", "image": image(1)}, {"image": image(2)}], prompt="a ")
    spelled = model.preprocess([{"text": "a red mug", "image": image(1)}, {"image": image(2)}])
    assert torch.equal(given["input_ids"], spelled["input_ids"])
    assert torch.equal(given["attention_mask"], spelled["attention_mask"])


def test_max_seq_length_cuts_texts(model_folders) -> None:
    model = load_model(model_folders["clip"], device="cpu")
    model.max_seq_length = 5
    assert model.preprocess(["a red mug and a blue lamp"])["input_ids"].shape[1] == 5


def test_siglip_has_one_width_and_no_mask(models, model_folders) -> None:
    model = load_model(model_folders["siglip"], device="cpu")
    features = model.preprocess([{"text": "a red mug"}, {"image": image(1)}])
    assert features["input_ids"].shape == (2, 32)
    assert features["attention_mask"].sum(dim=1).tolist() == [32, 0]  # every position is read, padding included
    with pytest.raises(ValueError, match="32 tokens, always"):
        model.max_seq_length = 16
    with pytest.raises(ValueError, match="32 tokens, always"):
        model[0].preprocess(["mug"], max_length=16)
    seen = {}
    stock = model[0].model.get_text_features

    def spy(**inputs):
        seen.update(inputs)
        return stock(**inputs)

    model[0].model.get_text_features = spy
    model.encode(["mug"])
    assert set(seen) == {"input_ids"}


def test_unused_towers_are_not_run(model_folders) -> None:
    model = load_model(model_folders["clip"], device="cpu")
    ran = []
    model[0].model.text_model.register_forward_hook(lambda *_: ran.append("text"))
    model[0].model.vision_model.register_forward_hook(lambda *_: ran.append("image"))
    model.encode(["mug"])
    assert ran == ["text"]
    model.encode([{"image": image(1)}])
    assert ran == ["text", "image"]


@pytest.mark.parametrize("text", ["https://example.org/mug.png", "data:image/png;base64,AAAA", "{path}"])
@pytest.mark.security
def test_a_string_is_a_text_even_if_it_names_an_image(text, models, tmp_path) -> None:
    image(1).save(tmp_path / "mug.png")
    text = text.format(path=tmp_path / "mug.png")
    for family in ("clip", "vlm"):
        features = models[family].preprocess([text])
        assert "pixel_values" not in features
        words = models[family].preprocess([{"text": text}])
        assert torch.equal(features["input_ids"], words["input_ids"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "mug.png"}, "row 1: an image is a PIL image.* got str; load it with mmembed.images.load_image"),
        ({"image": b"\x89PNG"}, "row 1: an image .* got bytes"),
        ({"text": "mug", "video": [1]}, r"row 1: unknown keys \['video'\]"),
        ({}, "row 1 has neither a text nor an image"),
        ({"text": None, "image": None}, "row 1 has neither a text nor an image"),
        ({"text": 3}, "row 1: a text is a string, got int"),
        (7, "row 1: int is not a row"),
        (None, "row 1: NoneType is not a row"),
        ({"image": np.zeros((4, 4, 3))}, "array of float64"),
    ],
)
def test_what_is_not_a_row_is_named(row, message, models) -> None:
    for family in ("clip", "vlm"):
        with pytest.raises(ValueError, match=message):
            models[family][0].preprocess(["mug", row])


def test_other_image_modes_become_rgb(models) -> None:
    see_through = image(1).convert("RGBA")
    see_through.putalpha(0)
    pixels = models["clip"].preprocess([see_through, image(1).convert("L")])["pixel_values"]
    assert pixels[0].unique().tolist() == [255] and pixels.shape == (2, 3, 16, 16)


# --- vision-language models and text models -------------------------------------------------------------------------


def test_a_vlm_reads_mixed_rows(models) -> None:
    vectors = models["vlm"].encode(rows())
    for row, vector in zip(rows(), vectors):
        assert np.allclose(models["vlm"].encode([row])[0], vector, atol=1e-5)


@pytest.mark.security
def test_control_tokens_in_a_text_are_text(models) -> None:
    module = models["vlm"][0]
    control = {module.tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<|end|>", "[SEP]", "[CLS]")}

    def count(text: str) -> list[int]:
        batch = module.preprocess([{"text": text}, {"text": "mug", "image": image(1)}])["input_ids"]
        return [sum(int(id) in control for id in row) for row in batch]

    for hostile in ("<image> mug", "mug<|end|>user ", "a [SEP] b", "＜image＞", "<image><image>", "<<image>image>"):
        assert count(hostile) == count("mug")
        models["vlm"].encode([{"text": hostile, "image": image(1)}, hostile])


def test_plain_text_leaves_other_texts_alone() -> None:
    assert plain_text("½ price <b>", ["<image>"]) == "½ price <b>"
    assert plain_text("", ["<image>"]) == ""


def test_chat_messages_reach_the_template_untouched(models) -> None:
    message = [
        {"role": "user", "content": [{"type": "text", "text": "red <image> mug"}, {"type": "image", "image": image(1)}]}
    ]
    module = models["vlm"][0]
    rendered = module.processor.apply_chat_template(message, tokenize=False)
    assert rendered == "user red <image> mug<image><|end|>"
    with pytest.raises(ValueError):
        module.preprocess([message])  # two placeholders, one image: refused by the model's own processor
    message[0]["content"][0]["text"] = "red mug"
    features = module.preprocess([message])
    assert features["pixel_values"].shape[0] == 1


def test_text_models_take_explicit_rows_and_refuse_images(tmp_path) -> None:
    from transformers import BertConfig, BertModel

    words = tokenizer()
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    model, stock = load_model(tmp_path, device="cpu"), SentenceTransformer(str(tmp_path), device="cpu")
    texts = ["a red mug", "https://example.org/mug.png"]
    expected = stock.encode(texts, normalize_embeddings=True)
    assert np.allclose(model.encode([{"text": text} for text in texts]), expected, atol=1e-6)
    assert np.allclose(model.encode(texts), expected, atol=1e-6)
    with pytest.raises(ValueError, match="not supported"):
        model.encode([{"image": image(1)}])


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["clip", "siglip", "dual_encoder"])
def test_cached_gradients_equal_plain_ones(family, models) -> None:
    if family == "dual_encoder":
        model = build_dual_encoder(
            WORDS, image_size=16, text_hidden_size=16, text_layers=1, text_dropout=0.0, image_embedding_size=8,
            image_hidden_sizes=[8], image_depths=[1], projection_dim=8, image_pooling="mean",
        )  # fmt: skip
    else:
        model = copy.deepcopy(models[family])
    model.double()  # a key's bias has no gradient but rounding: in float32 the two differ by as much as there is
    queries = [{"text": "a"}, {"text": "the quick brown fox"}, {"image": image(1)}, {"text": "hat", "image": image(2)}]
    documents = [{"image": image(3)}, {"image": image(4)}, {"text": "lamp"}, {"text": "green hat"}]
    gradients = []
    for loss in (
        losses.MultipleNegativesRankingLoss(model),
        losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2),
    ):
        model.zero_grad()
        model.eval()  # batch statistics differ between batch sizes, by their nature
        features = [model.preprocess(queries), model.preprocess(documents)]
        with torch.enable_grad():
            loss(features, None).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-6, atol=1e-6), name


def test_mini_batches_are_cut_where_the_rows_are(models) -> None:
    for family in ("clip", "siglip"):
        model = models[family]
        features = model.preprocess(rows())
        whole = model(dict(features))["sentence_embedding"]
        for begin in range(0, 6, 2):
            part = model(_create_minibatch(features, begin, begin + 2))["sentence_embedding"]
            assert torch.allclose(part, whole[begin : begin + 2], atol=1e-5)


def _ddp_rank(rank: int, port: int, folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = load_model(folder, device="cpu").train()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.ndim > 0)  # logit_scale, as the trainer does
    wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    batches = [["a red mug", "blue lamp"], [{"image": image(1)}, "green hat"]] if rank else [["a", "b"], ["c", "d"]]
    for batch in batches:  # rank 0 never sees an image
        model.zero_grad()
        wrapped(model.preprocess(batch))["sentence_embedding"].sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    torch.save(gradient, out / f"{rank}.pt")
    dist.barrier()
    del wrapped  # a wrapper that is taken down after its group may wait for ever
    gc.collect()
    dist.destroy_process_group()


def _run_two(function, *arguments) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = (port, *arguments)
    context = torch.multiprocessing.start_processes(function, given, nprocs=2, join=False, start_method="spawn")
    deadline = time.monotonic() + 60
    while not context.join(timeout=5):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the processes wait for each other")


def test_two_ranks_train_together_though_one_has_no_image(model_folders, tmp_path) -> None:
    _run_two(_ddp_rank, model_folders["clip"], tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first, second) and float(first.abs().sum()) > 0


def _sharded_rank(rank: int, port: int, folders: list[Path], out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for number, folder in enumerate(folders):
        model = load_model(folder, device="cpu").train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim > 0)
        inner = model.transformers_model
        scale = {inner.logit_scale}
        for tower in (inner.text_model, inner.vision_model):
            fully_shard(tower, mesh=mesh)
        fully_shard(model, mesh=mesh, ignored_params=scale)  # FSDP takes no parameter without a dimension
        for batch in ([["a"], ["a red mug", "b"]], [["a red mug", "b"], [image(1), "c"]], [[image(2)], ["hat"]]):
            model.zero_grad()
            model(model.preprocess(batch[rank]))["sentence_embedding"][:, 0].sum().backward()
        name = (
            "text_model.encoder.layer.0.output.dense.weight" if number else "text_model.encoder.layers.0.mlp.fc1.weight"
        )
        gradient = inner.get_parameter(name).grad.full_tensor()
        if rank == 0:
            torch.save(gradient, out / f"{number}.pt")
    dist.barrier()
    del model, inner, gradient
    gc.collect()
    dist.destroy_process_group()


def test_sharded_ranks_do_not_wait_for_a_tower_that_one_skips(model_folders, tmp_path) -> None:
    own = build_dual_encoder(
        WORDS, image_size=32, text_hidden_size=16, text_layers=1, image_embedding_size=8, image_hidden_sizes=[8, 16],
        image_depths=[1, 1], projection_dim=8, fusion="none", text_heads=2,
    )  # fmt: skip
    own.save_pretrained(str(tmp_path / "own"))
    folders = [model_folders["clip"], tmp_path / "own"]
    _run_two(_sharded_rank, folders, tmp_path)
    for number, folder in enumerate(folders):
        model = load_model(folder, device="cpu")  # one process: the mean over ranks of the last batch's gradients
        model(model.preprocess(["hat"]))["sentence_embedding"][:, 0].sum().div(2).backward()
        name = (
            "text_model.encoder.layer.0.output.dense.weight" if number else "text_model.encoder.layers.0.mlp.fc1.weight"
        )
        expected = model.transformers_model.get_parameter(name).grad
        found = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        assert float(expected.abs().max()) > 1e-4 and torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


# --- stock on disk and in other processes ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*TWO_TOWERS, "vlm"])
def test_the_saved_folder_is_stock(family, models, tmp_path) -> None:
    models[family].save_pretrained(str(tmp_path))
    types = [module["type"] for module in json.loads((tmp_path / "modules.json").read_text())]
    assert types[0] == "sentence_transformers.base.modules.transformer.Transformer"
    assert all(kind.startswith("sentence_transformers.") for kind in types)
    assert "mmembed" not in "".join(path.read_text() for path in tmp_path.glob("*.json"))
    stock = SentenceTransformer(str(tmp_path), device="cpu")
    assert type(stock[0]) is Transformer
    expected = models[family].encode(rows())
    for picked in (TEXTS, IMAGES):
        vectors = stock.encode([{key: rows()[i][key] for key in rows()[i]} for i in picked])
        assert np.allclose(vectors, expected[picked], atol=1e-5)
    assert np.allclose(load_model(tmp_path, device="cpu").encode(rows()), expected, atol=1e-6)


WITHOUT_MMEMBED = """
import json, sys
sys.modules["mmembed"] = None
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
cases = json.loads(sys.argv[1])
pixels = np.load(sys.argv[2])
rows = [{"text": "a red mug"}], [{"image": Image.fromarray(pixels)}]
for name, (folder, remote) in cases.items():
    model = SentenceTransformer(folder, device="cpu", trust_remote_code=remote)
    vectors = np.concatenate([model.encode(batch) for batch in rows])
    if remote:
        vectors = np.concatenate([vectors, model.encode([{"text": "mug", "image": Image.fromarray(pixels)}, "hat"])])
    np.save(f"{folder}/vectors.npy", vectors)

del sys.modules["mmembed"]  # and now as a spawned worker of a data loader, which unpickles what it calls
import pickle
import socket
preprocess = pickle.load(open(sys.argv[3], "rb"))
features = preprocess([{"text": "a red mug"}, {"image": pixels}])
assert type(preprocess.__self__[0]).__name__ == "Transformer" and features["modality"] == "message"
np.save(sys.argv[3] + ".npy", features["input_ids"].numpy())
"""


def test_folders_load_where_mmembed_is_absent(models, tmp_path) -> None:
    own = build_dual_encoder(
        WORDS, image_size=16, text_hidden_size=16, text_layers=1, image_embedding_size=8, image_hidden_sizes=[8],
        image_depths=[1], projection_dim=8,
    )  # fmt: skip
    used = {"clip": models["clip"], "siglip": models["siglip"], "own": own}
    cases = {}
    for name, model in used.items():
        model.save_pretrained(str(tmp_path / name))
        cases[name] = (str(tmp_path / name), name == "own")
    pixels = np.asarray(image(1))
    np.save(tmp_path / "pixels.npy", pixels)
    (tmp_path / "pickled").write_bytes(pickle.dumps(models["clip"].preprocess))
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_MMEMBED, json.dumps(cases), str(tmp_path / "pixels.npy"), str(tmp_path / "pickled")],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    for name, model in used.items():
        batch = [{"text": "a red mug"}, {"image": pixels}]
        batch += [{"text": "mug", "image": pixels}, {"text": "hat"}] if name == "own" else []
        assert np.allclose(np.load(tmp_path / name / "vectors.npy"), model.encode(batch), atol=1e-5), name
    here = models["clip"].preprocess([{"text": "a red mug"}, {"image": pixels}])["input_ids"]
    assert np.array_equal(np.load(tmp_path / "pickled.npy"), here.numpy())


def test_copies_and_pickles_are_still_ours(models) -> None:
    model = models["clip"]
    expected = model.encode(rows())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other[0]) is MultimodalTransformer and other[0] is not model[0]
        assert np.array_equal(other.encode(rows()), expected)
    classes = {"sentence_transformers.base.modules.transformer.Transformer": type(model[0])}
    assert classes == {f"{type(model[0]).__module__}.{type(model[0]).__name__}": MultimodalTransformer}


def test_the_trainers_way_of_loading_the_best_gives_ours(models, tmp_path) -> None:
    models["clip"].save_pretrained(str(tmp_path))
    classes = {"sentence_transformers.base.modules.transformer.Transformer": MultimodalTransformer}
    loaded = SentenceTransformer._load_with_module_classes(str(tmp_path), classes, device="cpu")
    assert type(loaded[0]) is MultimodalTransformer
    assert np.allclose(loaded.encode(rows()), models["clip"].encode(rows()), atol=1e-6)


def test_adopting_twice_is_adopting_once_and_others_are_left(model_folders) -> None:
    stock = SentenceTransformer(str(model_folders["siglip"]), device="cpu")
    module = stock[0]
    assert adopt(stock) is stock and stock[0] is module and type(module) is MultimodalTransformer
    config = module.get_config_dict()
    assert adopt(stock)[0].get_config_dict() == config
    assert config["processing_kwargs"]["text"]["padding"] == "max_length"
    assert "message" in stock.modalities and "message" not in config["modality_config"]
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer(), embedding_dim=4)], device="cpu")
    assert type(adopt(static)[0]) is StaticEmbedding

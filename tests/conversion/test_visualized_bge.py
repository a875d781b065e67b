"""Visualized-BGE converted: against the original's own outputs, its loss, its errors, and its recipe."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from mmembed.cli import main
from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError
from mmembed.conversion.converting import convert_checkpoint
from mmembed.conversion.visualized_bge import convert, recognises
from mmembed.losses.building import build_loss
from mmembed.models import DualEncoderProcessor, VisualizedBGEModel
from mmembed.models.loading import load_model, sentence_transformer
from tests.conversion import tiny_visualized_bge as tiny
from tests.jobs.tiny_jobs import write_shop
from tests.models.tiny_models import tokenizer
from tests.recipes.test_ft_embedding import WITHOUT_MMEMBED

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes" / "visualized_bge"
VARIANTS = ["base_en", "m3"]
TINY = {"base_en": (tiny.original_state_dict, tiny.CONFIG), "m3": (tiny.original_state_dict_m3, tiny.CONFIG_M3)}


class Original:
    """One fixture: what went into the original implementation, what came out, and its checkpoint converted."""

    def __init__(self, folder: Path, converted: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.inputs, self.outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
        self.report = convert_checkpoint(None, folder / "original_checkpoint.pth", converted, config=self.config)
        self.model = AutoModel.from_pretrained(converted).eval()
        self.pixels = self.inputs["query_pixel_values"]

    def text(self, name: str) -> tuple[Tensor, Tensor]:
        return self.inputs[f"{name}_input_ids"], self.inputs[f"{name}_attention_mask"]

    def fused(self, name: str, pixels: Tensor, **given: Any) -> Any:
        ids, mask = self.text(name)
        return self.model.get_fused_features(ids, pixels, mask, **given)

    def check(self, value: Tensor, name: str, atol: float = 1e-5) -> None:
        torch.testing.assert_close(value, self.outputs[name], atol=atol, rtol=0, msg=lambda said: f"{name}: {said}")


@pytest.fixture(scope="module", params=VARIANTS)
def original(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Original:
    folder = shared_data / "parity" / "visualized_bge" / request.param
    if not folder.is_dir():
        pytest.skip(f"no fixture at {folder}")
    return Original(folder, tmp_path_factory.mktemp(request.param) / "model")


def converted(variant: str, folder: Path, **changes: Any) -> Path:
    """The tiny original of a variant, converted with a tokenizer."""
    state, config = TINY[variant]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state(), folder / "original.safetensors")
    words = tiny.write_tokenizer(folder)
    convert_checkpoint(
        None, folder / "original.safetensors", folder / "model", config={**config, **changes}, tokenizer=words
    )
    return folder / "model"


# --- the original's outputs ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_image_tower_is_the_original(original: Original) -> None:
    original.check(original.model.vision_model(original.pixels), "eva_tokens")
    original.check(original.model.image_tokens(original.pixels), "img_tokens_projected")


@torch.no_grad()
def test_texts_images_and_both_are_the_original(original: Original) -> None:
    model, pixels = original.model, original.pixels
    for output, kind in (
        (model.get_text_features(*original.text("query")), "text"),
        (model.get_image_features(pixels), "image"),
        (original.fused("query", pixels), "mm"),
    ):
        original.check(output.pooler_output, f"{kind}_emb")
        original.check(output.last_hidden_state, f"{kind}_last_hidden")
        if f"{kind}_emb_unnormalized" in original.outputs:
            original.check(output.last_hidden_state[:, 0], f"{kind}_emb_unnormalized")
    candidates = original.inputs["cand_pixel_values"]
    original.check(model.get_image_features(candidates).pooler_output, "edit_image_c_reps")
    original.check(original.fused("cand", candidates).pooler_output, "t2it_c_reps")


@torch.no_grad()
def test_the_other_pooling_and_length_are_the_original(original: Original) -> None:
    model = VisualizedBGEModel(copy.deepcopy(original.model.config)).eval()
    model.load_state_dict(original.model.state_dict())
    ids, mask = original.text("query")
    model.config.normalize = False
    original.check(model.get_fused_features(ids, original.pixels, mask).pooler_output, "mm_emb_unnormalized")
    original.check(model.get_text_features(ids, mask).pooler_output, "text_emb_unnormalized")
    model.config.normalize, model.config.pooling = True, "mean"
    original.check(model.get_fused_features(ids, original.pixels, mask).pooler_output, "mm_emb_meanpool")
    original.check(model.get_text_features(ids, mask).pooler_output, "text_emb_meanpool")


@torch.no_grad()
def test_training_without_half_the_patches_is_the_original(original: Original) -> None:
    if "train_patch_indices_keep" not in original.outputs:
        assert original.model.config.vision_config.patch_dropout == 0
        return
    kept = original.outputs["train_patch_indices_keep"]
    original.check(original.model.vision_model(original.pixels, kept), "train_patchdrop_eva_tokens")
    original.check(original.fused("query", original.pixels, patch_indices=kept).pooler_output, "train_patchdrop_mm_emb")
    tower = original.model.vision_model.train()
    assert tower(original.pixels).shape == original.outputs["train_patchdrop_eva_tokens"].shape
    tower.eval()


@torch.no_grad()
def test_left_padding_is_right_where_the_original_is_wrong(original: Original) -> None:
    """The original's mask is [image][text] and its tokens are [first][image][rest]: on the left they part."""
    ids, mask = original.text("leftpad")
    ours = original.fused("leftpad", original.pixels).pooler_output
    for row in range(len(ids)):
        alone = ids[row][mask[row].bool()][None]
        wanted = original.model.get_fused_features(alone, original.pixels[row : row + 1]).pooler_output
        torch.testing.assert_close(ours[row : row + 1], wanted, atol=1e-6, rtol=0)
    quirk = original.outputs["mm_emb_leftpad_quirk"]
    padded = (mask == 0).any(dim=1)
    torch.testing.assert_close(ours[~padded], quirk[~padded], atol=1e-5, rtol=0)
    assert (ours[padded] - quirk[padded]).abs().max() > 1e-2


@pytest.mark.parametrize("number", ["", "2"])
def test_pictures_are_prepared_as_by_the_original(original: Original, number: str) -> None:
    processor = DualEncoderProcessor(
        tokenizer(), image_size=original.model.config.image_size, resize="crop", resample=3
    )
    picture = Image.fromarray(original.inputs[f"raw_image{number}_uint8_hwc"].numpy())
    pixels = processor(images=[picture])["pixel_values"]
    original.check(original.model._normalized(pixels)[0], f"preprocessed_val{number}")


# --- the original's loss ------------------------------------------------------------------------------------------


def recipe_loss(model: Any, recipe: str = "base_en") -> nn.Module:
    """As the job builds it from the recipe."""
    settings = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    return build_loss(
        settings["loss"], model, settings["loss_arguments"], num_negatives=settings.get("num_negatives", 0)
    )


def features(ids: Tensor, mask: Tensor, pixels: Tensor | None) -> dict[str, Any]:
    shown = (
        {}
        if pixels is None
        else {"pixel_values": pixels, "num_images_per_sample": torch.ones(len(ids), dtype=torch.int64)}
    )
    return {"input_ids": ids, "attention_mask": mask, "modality": "message", **shown}


@pytest.mark.parametrize("recipe", ["base_en_fused", "m3"])
@pytest.mark.parametrize("task", ["edit_image", "t2it"])
def test_the_recipe_trains_with_the_original_loss(original: Original, task: str, recipe: str) -> None:
    """Query i's candidates are i * count …, the first of them its own; all others are negatives. Gradients as well."""
    model, (ids, mask) = original.model, original.text("query")
    around = sentence_transformer(model, DualEncoderProcessor(tokenizer(), image_size=model.config.image_size))
    candidate_ids, candidate_mask = original.text("cand")
    pixels, count = original.inputs["cand_pixel_values"], len(candidate_ids) // len(ids)
    columns = [features(ids, mask, original.pixels if task == "edit_image" else None)]
    for number in range(count):
        mine = slice(number, None, count)
        silent = torch.zeros_like(candidate_mask[mine]) if task == "edit_image" else candidate_mask[mine]
        columns.append(features(candidate_ids[mine], silent, pixels[mine]))
    model.zero_grad()
    loss = recipe_loss(around, recipe)(columns, None)
    original.check(loss.detach(), f"{task}_loss", atol=1e-4)
    if task == "edit_image":
        loss.backward()
        wanted = original.outputs
        torch.testing.assert_close(
            model.visual_projection.weight.grad, wanted["grad_visual_proj_weight"], atol=1e-3, rtol=1e-4
        )
        for name, parameter in (
            ("word_embeddings", model.text_model.embeddings.word_embeddings.weight),
            ("patch_embed", model.vision_model.patch_embedding.weight),
        ):
            torch.testing.assert_close(parameter.grad.norm(), wanted[f"grad_{name}_norm"], atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_scores_are_the_original(original: Original) -> None:
    model, (ids, mask) = original.model, original.text("query")
    pixels = original.inputs["cand_pixel_values"]
    edited = original.fused("query", original.pixels).pooler_output @ model.get_image_features(pixels).pooler_output.T
    found = model.get_text_features(ids, mask).pooler_output @ original.fused("cand", pixels).pooler_output.T
    for task, scores in (("edit_image", edited), ("t2it", found)):
        original.check(scores, f"{task}_scores_eval", atol=1e-4)
        original.check(scores / 0.02, f"{task}_scores_train", atol=1e-4)


def batch_of_vectors() -> list[Tensor]:
    """Queries, positives and hard negatives of four rows."""
    generator = torch.Generator().manual_seed(2)
    return [F.normalize(torch.randn(4, 8, generator=generator), dim=-1).requires_grad_() for _ in range(3)]


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mine = [column.detach()[2 * rank : 2 * rank + 2].requires_grad_() for column in batch_of_vectors()]
    loss = recipe_loss(nn.Identity()).compute_loss_from_embeddings(mine, None)
    loss.backward()
    torch.save([loss.detach(), [column.grad for column in mine]], Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_recipe_takes_the_negatives_of_all_processes_as_the_original_does(tmp_path: Path) -> None:
    """There each process has the loss of all queries against all candidates, the own one of query i at 2 i."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, str(tmp_path)), nprocs=2)
    told = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    queries, positives, negatives = batch_of_vectors()
    candidates = torch.stack([positives, negatives], dim=1).flatten(0, 1)
    # Normalised once more, as the loss does, whose gradient then has no part along the vector.
    scores = F.normalize(queries, dim=-1) @ F.normalize(candidates, dim=-1).T
    wanted = F.cross_entropy(scores / 0.02, torch.arange(4) * 2)
    wanted.backward()
    torch.testing.assert_close((told[0][0] + told[1][0]) / 2, wanted.detach(), atol=1e-5, rtol=0)
    for column, one, two in zip((queries, positives, negatives), told[0][1], told[1][1]):
        torch.testing.assert_close(torch.cat([one, two]) / 2, column.grad, atol=1e-5, rtol=1e-4)  # DDP takes the mean


# --- keys and sizes -----------------------------------------------------------------------------------------------


def test_every_key_is_mapped_or_dropped_for_a_reason(original: Original) -> None:
    state = load_file(original.folder / "original_state_dict.safetensors")
    report = original.report
    assert set(report["mapped"]) | set(report["dropped"]) == set(state) and not set(report["mapped"]) & set(
        report["dropped"]
    )
    blocks = {name for name in state if ".attn.rope." in name}
    unread = {"bge_pooler.dense.weight", "bge_pooler.dense.bias", "model_visual.logit_scale"}
    unread |= {f"model_visual.visual.{part}.{kind}" for part in ("norm", "head") for kind in ("weight", "bias")}
    assert set(report["dropped"]) == blocks | unread and all(report["dropped"].values())
    assert any("tokenizer" in missing for missing in report["missing"])
    assert report["parameters"] == sum(p.numel() for p in original.model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_sixteen_bits_become_thirty_two_unrounded(variant: str, tmp_path: Path) -> None:
    """The published files; pickled, so that blocks share the tower's tables as there."""
    make, config = TINY[variant]
    state = {name: tensor.half() for name, tensor in make().items()}
    for name in state:
        if ".attn.rope." in name:
            state[name] = state["model_visual.visual.rope." + name.rsplit(".", 1)[1]]
    save_file({name: tensor.float().clone() for name, tensor in state.items()}, tmp_path / "full.safetensors")
    models = []
    state["bge_embeddings.position_ids"] = torch.arange(4)[None]  # older transformers saved it
    torch.save(state, tmp_path / "half.pth")
    for file in ("half.pth", "full.safetensors"):
        words = tiny.write_tokenizer(tmp_path)
        convert_checkpoint(None, tmp_path / file, tmp_path / file[:4], config=config, tokenizer=words)
        models.append(AutoModel.from_pretrained(tmp_path / file[:4]))
    for name, tensor in models[0].state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, models[1].state_dict()[name]), name
    table = state["model_visual.visual.rope.freqs_sin"].float()
    assert torch.equal(models[0].vision_model.rope_sin, table)


def published() -> dict[str, Tensor]:
    """The widths of Visualized_base_en_v1.5, with one layer a tower."""
    vision = {"image_size": 224, "layers": 1, "width": 768, "head_width": 64, "patch_size": 16, "mlp_ratio": 0.01}
    text = {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 1,
        "num_attention_heads": 12,
        "intermediate_size": 8,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
    }
    return tiny._state({"bge_config": text, "eva": {"embed_dim": 4, "vision_cfg": vision}}, 0)


def test_a_published_size_needs_no_configuration() -> None:
    conversion = convert(Checkpoint(Path("Visualized_base_en_v1.5.pth"), published()), None, None)
    config = conversion.model.config
    assert config.text_config.model_type == "bert" and config.text_config.num_attention_heads == 12
    assert config.text_config.layer_norm_eps == 1e-12 and config.empty_text_ids == [101, 102]
    assert config.vision_config.num_attention_heads == 12 and config.vision_config.patch_dropout == 0.5
    assert config.image_size == 224 and config.max_text_length == 316
    assert (config.pooling, config.normalize) == ("cls", True)


def test_other_families_are_not_claimed(shared_data: Path) -> None:
    from mmembed.conversion.checkpoint_reading import read_checkpoint

    assert recognises(Checkpoint(Path("a"), tiny.original_state_dict()))
    files = sorted((shared_data / "parity").rglob("original_checkpoint.p*")) + sorted(
        (shared_data / "parity").rglob("original_state_dict.safetensors")
    )
    claimed = {file.parents[1].name for file in files if recognises(read_checkpoint(file))}
    assert claimed == {"visualized_bge"}


# --- texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_a_tokenizer_it_reads_rows_and_cuts_texts_where_an_image_fits(variant: str, tmp_path: Path) -> None:
    folder = converted(variant, tmp_path)
    model = load_model(folder, device="cpu")
    config = model[0].model.config
    assert config.empty_text_ids == [2, 3] and model.max_seq_length == config.max_text_length
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 41, 3), dtype=np.uint8))
    long = " ".join(["red mug"] * 60)
    vectors = model.encode(
        [{"text": long, "image": picture}, {"text": long}, {"image": picture}, {"text": "", "image": picture}]
    )
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(vectors[2], vectors[3], atol=1e-6)  # no text, and the empty one
    report = json.loads((folder / "conversion_report.json").read_text())
    assert not report["missing"] and f"cut at {config.max_text_length} tokens" in report["notes"][0]


def test_a_vocabulary_file_and_a_tokenizer_file_are_read(tmp_path: Path) -> None:
    state, config = TINY["base_en"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "mug"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    tokenizer().backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    for file, text, ids in (("vocab.txt", "Red MUG", [2, 5, 6, 3]), ("tokenizer.json", "", [2, 3])):
        checkpoint = Checkpoint(tmp_path / "a.pth", state())
        processor = convert(checkpoint, config, tmp_path / file).processor
        assert processor.tokenizer(text)["input_ids"] == ids and processor.tokenizer.pad_token_id == 0


# --- errors -------------------------------------------------------------------------------------------------------


def without(name: str) -> Any:
    return lambda state, config: state.pop(name)


def other(*path: str, value: Any) -> Any:
    def change(state: Any, config: Any) -> None:
        for name in path[:-1]:
            config = config[name]
        config[path[-1]] = value

    return change


def differing_tables(state: Any, config: Any) -> None:
    state["model_visual.visual.blocks.1.attn.rope.freqs_cos"] = torch.zeros(16, 12)


VISION = ("eva", "vision_cfg")
WRONG = [
    (without("visual_proj.bias"), "1 missing: visual_proj.bias"),
    (without("model_visual.visual.rope.freqs_cos"), "has no 'model_visual.visual.rope.freqs_cos'"),
    (
        without("model_visual.visual.blocks.0.mlp.ffn_ln.weight"),
        "1 missing: model_visual.visual.blocks.0.mlp.ffn_ln.weight",
    ),
    (lambda state, config: state.update({"bge_other.weight": torch.zeros(1)}), "bge_other.weight"),
    (lambda state, config: state.update({"visual_proj.bias": torch.zeros(5)}), r"\(5,\) instead of \(32,\)"),
    (differing_tables, "blocks.1.attn.rope.freqs_cos differs"),
    (other("bge_config", "hidden_size", value=64), "hidden_size=64 instead of 32"),
    (other("bge_model_type", value="roberta"), "bge_model_type='roberta'"),
    (other("bge_model_type", value=None), "needs bge_model_type"),
    (lambda state, config: config.pop("bge_config"), "pass config with bge_config"),
    (other("bge_config", value=[1]), "bge_config is a list"),
    (other(*VISION, "head_width", value=8), "head_width=8 instead of 12"),
    (other(*VISION, "postnorm", value=True), "postnorm=True is not supported"),
    (other(*VISION, "drop_path_rate", value=0.1), "drop_path_rate=0.1 is not supported"),
    (other("sentence_pooling_method", value="last"), "choose one of cls, mean"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_does_not_fit_is_one_error_and_nothing_is_written(change: Any, said: str, tmp_path: Path) -> None:
    state, config = tiny.original_state_dict(), copy.deepcopy(tiny.CONFIG)
    change(state, config)
    save_file(state, tmp_path / "a.safetensors")
    words = tiny.write_tokenizer(tmp_path)
    with pytest.raises(ConversionError, match=said):
        convert_checkpoint(
            "visualized_bge", tmp_path / "a.safetensors", tmp_path / "out", config=config, tokenizer=words
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "tokenizer"]


def test_tokenizers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state, config = TINY["base_en"]
    checkpoint = Checkpoint(tmp_path / "a.pth", state())
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(200))]))
    with pytest.raises(ConversionError, match="has 205 tokens and the checkpoint 120"):
        convert(checkpoint, config, tmp_path / "vocab.txt")
    with pytest.raises(ConversionError, match="cannot be read"):
        convert(checkpoint, config, tmp_path / "nowhere")
    m3, m3_config = TINY["m3"]
    shifted = {**m3_config, "bge_config": {**m3_config["bge_config"], "pad_token_id": 1}}
    with pytest.raises(ConversionError, match="pads with 0 and the text encoder with 1"):
        convert(Checkpoint(tmp_path / "a.pth", m3()), shifted, tiny.write_tokenizer(tmp_path))
    with pytest.raises(ConversionError, match="empty text are not known for a vocabulary of 120"):
        convert(checkpoint, config, None)
    assert convert(checkpoint, {**config, "empty_prompt_input_ids": [7, 8]}, None).model.config.empty_text_ids == [7, 8]


# --- the recipe ---------------------------------------------------------------------------------------------------


def words_of(out: Path, **options: Any) -> list[str]:
    settings = {
        "output_dir": str(out),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "bootstrap_samples": 20,
        "sheet_queries": 2,
        **options,
    }
    words = [[f"--{name}", value if isinstance(value, str) else json.dumps(value)] for name, value in settings.items()]
    return [word for pair in words for word in pair]


def write_pairs(shop: Path) -> Path:
    """A row finds itself; a row of its own part of the split is its hard negative."""
    rows = [json.loads(line) for line in shop.read_text().splitlines()]
    file = shop.with_name("pairs.jsonl")
    lines = [
        {"query_id": row["id"], "positive_ids": [row["id"]], "negative_ids": [rows[(i + 4) % len(rows)]["id"]]}
        for i, row in enumerate(rows)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.parametrize("recipe", ["base_en", "base_en_fused", "m3"])
def test_a_recipe_trains_a_converted_model_into_a_folder_that_needs_no_mmembed(recipe: str, tmp_path: Path) -> None:
    model = converted("m3" if recipe == "m3" else "base_en", tmp_path / "original")
    shop = write_shop(tmp_path / "shop", 16)
    # A model of random weights has more to learn than the recipe's epochs and rate would teach it.
    options: dict[str, Any] = {"items": str(shop), "model": str(model), "num_train_epochs": 12, "learning_rate": 3e-3}
    options["logging_steps"] = 1
    if recipe == "base_en_fused":
        options |= {"documents": str(shop), "pairs": str(write_pairs(shop))}
    out = tmp_path / "run"
    assert main(["train", "--config", str(RECIPES / f"{recipe}.yaml"), *words_of(out, **options)]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3]), losses
    before, after = (load_model(folder, device="cpu") for folder in (model, out / "model"))
    moved = {name for name, value in after.named_parameters() if not torch.equal(value, before.state_dict()[name])}
    assert {name for name, _ in after.named_parameters()} == moved
    if recipe != "base_en":
        return
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(picture)
    given = [str(out / "model"), str(picture), str(tmp_path / "vectors.npy")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "code"), "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MMEMBED, *given],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    image = Image.open(picture).convert("RGB")
    rows = [{"text": "red mug"}, {"image": image}, {"text": "red mug", "image": image}]
    wanted = np.concatenate([after.encode([row]) for row in rows])
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), wanted, atol=1e-6)

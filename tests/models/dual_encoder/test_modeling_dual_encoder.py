"""The dual encoder against its formulas, its frozen part, and its way through a folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers import AutoModel, BertConfig, MobileNetV2Config, ResNetConfig, ViTConfig

from mmembed.models import DualEncoderConfig, DualEncoderModel

from ..tiny_models import BERT, VISION, build, spread

SIZE = 32
TOWERS = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "mobilenet": MobileNetV2Config(depth_multiplier=0.1, min_depth=8, depth_divisible_by=8, tf_padding=True),
    "vit": ViTConfig(**{**VISION, "image_size": SIZE}),
}


def make(vision: str = "resnet", seed: int = 0, **settings) -> DualEncoderModel:
    torch.manual_seed(seed)
    text = BertConfig(**BERT, vocab_size=60, pad_token_id=0)
    settings = {"projection_dim": 8, "image_size": SIZE, **settings}
    # A configuration belongs to one model, which writes into it.
    vision_config = type(TOWERS[vision])(**TOWERS[vision].to_dict())
    return spread(DualEncoderModel(DualEncoderConfig(text, vision_config, **settings))).eval()


def pixels(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def batch() -> dict[str, torch.Tensor]:
    """Rows: text, image, both, both, text."""
    ids = torch.randint(5, 60, (5, 7), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    mask[1] = 0
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "pixel_values": pixels(3),
        "num_images_per_sample": torch.tensor([0, 1, 1, 1, 0]),
    }


def parts(model: DualEncoderModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalised projections of the texts of rows 2, 3 and of their images, one row at a time, by the towers alone."""
    given = batch()
    texts, images = [], []
    for row in (2, 3):
        tokens = model.text_model(input_ids=given["input_ids"][row : row + 1]).last_hidden_state
        texts.append(F.normalize(model.text_projection[-1](tokens.mean(dim=1)), dim=-1))
        image = (given["pixel_values"][row - 1 : row].float() / 255 - 0.5) / 0.5
        positions = model.vision_model(pixel_values=image).last_hidden_state.flatten(2)
        images.append(F.normalize(model.visual_projection[-1](positions.mean(dim=2)), dim=-1))
    return torch.cat(texts), torch.cat(images)


@torch.no_grad()
def test_fusions_are_their_formulas() -> None:
    given = batch()
    model = make(fusion="weighted_sum")
    text, image = parts(model)
    model.fusion.text_weight.fill_(float(np.log(0.7 / 0.3)))
    expected = F.normalize(0.7 * text + 0.3 * image, dim=-1)
    assert torch.allclose(model(**given).pooler_output[2:4], expected, atol=1e-5)

    model = make(fusion="concat")
    text, image = parts(model)
    vectors = model(**given).pooler_output
    assert vectors.shape == (5, 16)
    assert torch.allclose(vectors[2:4], torch.cat([text, image], dim=1) / 2**0.5, atol=1e-5)
    only_text = model.get_text_features(given["input_ids"][2:4]).pooler_output
    only_image = model.get_image_features(given["pixel_values"][1:]).pooler_output
    assert torch.allclose(only_text, torch.cat([text, text], dim=1) / 2**0.5, atol=1e-5)
    # one space: the products with a fused row are the means of those with its parts
    products = (only_text * vectors[2:4]).sum(dim=1)
    assert torch.allclose(products, (1 + (text * image).sum(dim=1)) / 2, atol=1e-5)
    assert torch.allclose((only_text * only_image).sum(dim=1), (text * image).sum(dim=1), atol=1e-5)

    for fusion in ("mlp", "gated"):
        model = make(fusion=fusion)
        for layer in (model.fusion.outer if fusion == "mlp" else model.fusion.gate,):
            layer.weight.zero_(), layer.bias.zero_()
        text, image = parts(model)
        assert torch.allclose(model(**given).pooler_output[2:4], F.normalize(text + image, dim=-1), atol=1e-5)
    model.fusion.gate.bias.fill_(50.0)  # an open gate lets the text through alone
    assert torch.allclose(model(**given).pooler_output[2:4], text, atol=1e-5)


def test_new_heads_start_as_the_mean() -> None:
    torch.manual_seed(0)
    text = BertConfig(**BERT, vocab_size=60)
    for fusion in ("weighted_sum", "mlp", "gated"):
        vision = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        model = DualEncoderModel(DualEncoderConfig(text, vision, projection_dim=8, image_size=SIZE, fusion=fusion))
        a, b = F.normalize(torch.randn(3, 8), dim=-1), F.normalize(torch.randn(3, 8), dim=-1)
        assert torch.allclose(F.normalize(model.fusion(a, b), dim=-1), F.normalize(a + b, dim=-1), atol=1e-6)
        # a projection keeps lengths: the towers' widths do not matter
        wide = torch.randn(256, 16)
        assert 0.5 < float((model.visual_projection(wide).detach().norm() / wide.norm()) * (16 / 8) ** 0.5) < 1.6
        assert model.logit_scale.item() == pytest.approx(2.6592)


@pytest.mark.parametrize("fusion", ["weighted_sum", "concat", "mlp", "gated"])
@torch.no_grad()
def test_each_row_of_a_mixed_batch_is_as_it_is_alone(fusion) -> None:
    model, given = make(fusion=fusion), batch()
    vectors = model(**given).pooler_output
    assert torch.allclose(vectors.norm(dim=1), torch.ones(5), atol=1e-6)
    images = iter(given["pixel_values"].split(1))
    for row, count in enumerate(given["num_images_per_sample"].tolist()):
        image = next(images) if count else None
        ids, mask = given["input_ids"][row : row + 1], given["attention_mask"][row : row + 1]
        if image is not None and mask.any():
            alone = model.get_fused_features(ids, image, mask)
        elif image is not None:
            alone = model.get_image_features(image)
        else:
            alone = model.get_text_features(ids, mask)
        assert torch.allclose(alone.pooler_output[0], vectors[row], atol=1e-5)
        assert torch.allclose(model(ids, mask, None, image).pooler_output[0], vectors[row], atol=1e-5)


def test_towers_run_only_on_what_is_there() -> None:
    model, given, sizes = make(), batch(), []
    model.text_model.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    model.vision_model.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    model(**given)
    model(given["input_ids"], given["attention_mask"].clamp(min=1))
    model(pixel_values=given["pixel_values"])
    assert sizes == [4, 3, 5, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images_per_sample": torch.tensor([0, 0, 1, 1, 1])}, r"rows \[1\] have neither"),
        ({"num_images_per_sample": torch.tensor([0, 2, 1, 0, 0])}, "more than one image"),
        ({"num_images_per_sample": torch.tensor([0, 1, 1, 0, 0])}, "3 images for 2 of 5 rows"),
        ({"num_images_per_sample": None}, "3 images for 5 of 5 rows"),
        ({"input_ids": None, "pixel_values": None}, "pass input_ids, pixel_values or both"),
        ({"pixel_values": torch.zeros(3, 3, SIZE, SIZE)}, "pass pixels as uint8"),
    ],
)
def test_what_does_not_fit_is_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()(**{**batch(), **change})


def test_without_fusion_a_row_with_both_is_refused_and_others_pass() -> None:
    model, given = make(fusion="none"), batch()
    with pytest.raises(ValueError, match="fusion='none'"):
        model(**given)
    given["num_images_per_sample"], given["pixel_values"] = torch.tensor([0, 1, 0, 0, 0]), pixels(1)
    assert model(**given).pooler_output.shape == (5, 8)


# --- pooling --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_text_poolings() -> None:
    ids = torch.tensor([[4, 5, 6, 0, 0], [7, 8, 9, 10, 11]])
    mask = (ids > 0).long()
    for pooling in ("mean", "cls", "last"):
        model = make(text_pooling=pooling)
        tokens = model.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = {
            "mean": torch.stack([tokens[0, :3].mean(0), tokens[1].mean(0)]),
            "cls": tokens[:, 0],
            "last": torch.stack([tokens[0, 2], tokens[1, 4]]),
        }[pooling]
        expected = F.normalize(model.text_projection[-1](pooled), dim=-1)
        assert torch.allclose(model.get_text_features(ids, mask).pooler_output, expected, atol=1e-6)
        assert model.text_model.pooler is None  # nothing that would never learn
    left = torch.tensor([[0, 0, 4, 5, 6]])
    model = make(text_pooling="last")
    tokens = model.text_model(input_ids=left, attention_mask=(left > 0).long()).last_hidden_state
    expected = F.normalize(model.text_projection[-1](tokens[:, 4]), dim=-1)
    assert torch.allclose(model.get_text_features(left, (left > 0).long()).pooler_output, expected, atol=1e-6)
    assert make(text_pooling="pooler").get_text_features(ids, mask).pooler_output.shape == (2, 8)


@torch.no_grad()
def test_image_poolings_and_levels() -> None:
    images = pixels(2)
    floats = (images.float() / 255 - 0.5) / 0.5
    for pooling in ("mean", "pooler", "gem"):
        model = make(image_pooling=pooling, image_levels=[0, -1], image_mean=[0.5] * 3, image_std=[0.5] * 3)
        output = model.vision_model(pixel_values=floats, output_hidden_states=True)
        last = output.last_hidden_state.flatten(2)
        if pooling == "gem":
            last = last.clamp(min=1e-6).pow(3).mean(2).pow(1 / 3)
        else:
            last = last.mean(2)
        levels = [output.hidden_states[level].flatten(2).mean(2) for level in (0, -1)]
        pooled = torch.cat([last, *levels], dim=1)
        assert model.config.image_width == pooled.shape[1] == 16 + 8 + 16
        expected = F.normalize(model.visual_projection[-1](pooled), dim=-1)
        assert torch.allclose(model.get_image_features(images).pooler_output, expected, atol=1e-5)
    model = make("vit", image_pooling="cls")
    expected = model.vision_model(pixel_values=floats).last_hidden_state[:, 0]
    expected = F.normalize(model.visual_projection[-1](expected), dim=-1)
    assert torch.allclose(model.get_image_features(images).pooler_output, expected, atol=1e-5)
    with pytest.raises(ValueError, match="has no first token"):
        make("resnet", image_pooling="cls")
    with pytest.raises(ValueError, match="5 is not among the vision tower's 3 hidden states"):
        make("resnet", image_levels=[5])


@torch.no_grad()
def test_rasters_of_levels_and_standardised_features(tmp_path) -> None:
    model = make(image_levels=[[0, 2], -1], image_standardise=True, frozen_image_layers=-1)
    images = pixels(6)
    output = model.vision_model(pixel_values=(images.float() / 255 - 0.5) / 0.5, output_hidden_states=True)
    inner = output.hidden_states[0].numpy()  # (6, 8, 8, 8)
    cells = [inner[:, :, a : a + 4, b : b + 4].mean((2, 3)) for a in (0, 4) for b in (0, 4)]
    last = output.last_hidden_state.mean((2, 3)).numpy()
    level = output.hidden_states[-1].mean((2, 3)).numpy()
    pooled = np.concatenate([last, np.stack(cells, axis=2).reshape(6, -1), level], axis=1)
    activations = model.encode_frozen_layers(images)
    assert np.allclose(activations.numpy(), pooled, atol=1e-4) and model.config.image_width == 16 + 32 + 16

    def expected(values: np.ndarray) -> np.ndarray:
        vectors = values @ model.visual_projection[-1].weight.numpy().T
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    # without statistics only outliers are cut
    assert np.allclose(model.get_image_features(images).pooler_output, expected(pooled.clip(-6, 6)), atol=1e-4)
    model.fit_image_statistics(activations)
    scaled = (pooled - pooled.mean(0)) / (pooled.std(0, ddof=1) + 1e-3)
    for given in (images, activations):
        assert np.allclose(model.get_image_features(given).pooler_output, expected(scaled.clip(-6, 6)), atol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.allclose(
        loaded.get_image_features(images).pooler_output, model.get_image_features(images).pooler_output
    )
    with pytest.raises(ValueError, match=r"activations of shape \(6, 3\), expected \(sample, 64\)"):
        model.fit_image_statistics(torch.zeros(6, 3))
    with pytest.raises(ValueError, match="image_standardise=False"):
        make().fit_image_statistics(activations)


@torch.no_grad()
def test_pixels_are_scaled_by_mean_and_deviation() -> None:
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    seen = []
    model = make(image_mean=mean, image_std=std)
    model.vision_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    images = pixels(2)
    model.get_image_features(images)
    expected = (images.numpy() / 255 - np.array(mean).reshape(3, 1, 1)) / np.array(std).reshape(3, 1, 1)
    assert np.allclose(seen[0].numpy(), expected, atol=1e-6)
    assert not [name for name in model.state_dict() if "image_mean" in name or "image_std" in name]


@torch.no_grad()
def test_mlp_projections_learn_through_their_layers() -> None:
    model = make(text_projection="mlp", image_projection="mlp", projection_dropout=0.5)
    names = [type(layer).__name__ for layer in model.text_projection]
    assert names == ["Dropout", "Linear", "GELU", "Dropout", "Linear"]
    first = model.get_image_features(pixels(2)).pooler_output
    assert torch.equal(first, model.get_image_features(pixels(2)).pooler_output)  # no dropout in evaluation
    model.train()
    model.vision_model.eval()
    assert not torch.equal(model.get_image_features(pixels(2)).pooler_output, first)


# --- the frozen part ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 19))
@torch.no_grad()
def test_activations_of_every_cut_give_the_same_vectors(count) -> None:
    model = make("mobilenet", image_levels=[-1], frozen_image_layers=count)
    whole = model.get_image_features(pixels(2)).pooler_output
    direct = F.normalize(
        model.visual_projection[-1](
            torch.cat(
                [
                    model.vision_model(pixel_values=(pixels(2).float() / 255 - 0.5) / 0.5).last_hidden_state.mean((2, 3)),
                    model.vision_model(
                        pixel_values=(pixels(2).float() / 255 - 0.5) / 0.5, output_hidden_states=True
                    ).hidden_states[-1].mean((2, 3)),
                ],
                dim=1,
            )
        ),
        dim=-1,
    )  # fmt: skip
    assert torch.allclose(whole, direct, atol=1e-5)
    activations = model.encode_frozen_layers(pixels(2))
    assert activations.ndim == (2 if count == 18 else 4)
    assert torch.allclose(model.get_image_features(activations).pooler_output, whole, atol=1e-5)
    # stored in half precision
    assert torch.allclose(model.get_image_features(activations.half()).pooler_output, whole, atol=5e-3)
    given = {**batch(), "pixel_values": model.encode_frozen_layers(batch()["pixel_values"])}
    assert torch.allclose(model(**given).pooler_output, model(**batch()).pooler_output, atol=1e-5)


@pytest.mark.parametrize("vision", ["resnet", "vit"])
@torch.no_grad()
def test_other_towers_freeze_as_a_whole(vision) -> None:
    model = make(vision, frozen_image_layers=-1)
    assert model.config.frozen_image_layers == model.num_image_layers == 1
    activations = model.encode_frozen_layers(pixels(2))
    assert activations.shape == (2, model.config.image_width)
    whole = model.get_image_features(pixels(2)).pooler_output
    assert torch.allclose(model.get_image_features(activations).pooler_output, whole, atol=1e-5)
    with pytest.raises(ValueError, match="the vision tower has 1 units; this tower freezes as a whole"):
        model.freeze_image_layers(2)


@pytest.mark.parametrize(("vision", "count"), [("mobilenet", 5), ("mobilenet", 18), ("resnet", 1)])
def test_the_frozen_part_neither_learns_nor_counts(vision, count, tmp_path) -> None:
    made = make(vision, frozen_image_layers=count, image_pooling="gem")
    made.save_pretrained(tmp_path)
    for model in (made, AutoModel.from_pretrained(tmp_path)):
        model.train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
        vectors = model.get_image_features(pixels(4)).pooler_output
        (vectors[0] @ vectors[1]).backward()
        optimizer.step()
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        frozen = model._frozen_modules(count)
        inside = {
            f"{name}.{inner}"
            for name, module in model.named_modules()
            if module in frozen
            for inner in module.state_dict()
        }
        assert inside and not changed & inside
        assert any(name.startswith("visual_projection") for name in changed)
        if vision == "mobilenet" and count == 5:
            assert "vision_model.layer.4.expand_1x1.normalization.running_mean" in changed
            assert "vision_model.layer.3.expand_1x1.normalization.running_mean" not in changed
            assert model.image_pool.exponent.requires_grad
        # after train(), evaluation and back
        model.eval()
        model.train()
        assert all(not module.training for module in frozen) and model.visual_projection.training


def test_freezing_can_be_undone_and_refuses_lost_levels() -> None:
    model = make("mobilenet", frozen_image_layers=6)
    model.freeze_image_layers(2)
    assert all(p.requires_grad for p in model.vision_model.layer[1].parameters())
    assert not any(p.requires_grad for p in model.vision_model.layer[0].parameters())
    model.freeze_image_layers(0)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="no image layer is frozen"):
        model.encode_frozen_layers(pixels(1))
    with pytest.raises(ValueError, match="18 units"):
        model.freeze_image_layers(19)
    model = make("mobilenet", image_levels=[3])
    model.freeze_image_layers(5)  # hidden state 3 is the activation itself
    with pytest.raises(ValueError, match=r"image_levels \[3\] lie inside the frozen part"):
        model.freeze_image_layers(6)
    model.freeze_image_layers(-1)


# --- construction, saving, training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["weighted_sum", "concat", "mlp", "gated", "none"])
@torch.no_grad()
def test_a_saved_model_is_the_same(fusion, tmp_path) -> None:
    model = make(fusion=fusion, image_pooling="gem", image_levels=[1])
    model.logit_scale.fill_(1.5)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, DualEncoderModel)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert loaded.logit_scale.shape == (1,) and not any(p.ndim == 0 for p in loaded.parameters())
    given = batch()
    if fusion == "none":
        given = {"input_ids": given["input_ids"][2:]}
    assert torch.allclose(loaded(**given).pooler_output, model(**given).pooler_output, atol=1e-6)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert torch.allclose(half(**given).pooler_output.float(), model(**given).pooler_output, atol=0.1)


@torch.no_grad()
def test_from_towers_keeps_the_towers_weights(tmp_path) -> None:
    torch.manual_seed(3)
    text = transformers.BertModel(BertConfig(**BERT, vocab_size=60)).eval()
    vision = transformers.MobileNetV2ForImageClassification(TOWERS["mobilenet"]).eval()
    text.save_pretrained(tmp_path / "text")
    vision.half().save_pretrained(tmp_path / "vision")
    model = DualEncoderModel.from_towers(
        str(tmp_path / "text"), str(tmp_path / "vision"), projection_dim=8, image_size=SIZE
    )
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    for name, value in vision.mobilenet_v2.state_dict().items():
        assert torch.equal(model.vision_model.state_dict()[name].float(), value.float()), name
    for name, value in model.text_model.state_dict().items():
        assert torch.equal(value, text.state_dict()[name]), name
    again = DualEncoderModel.from_towers(text, vision.float().mobilenet_v2, projection_dim=8, image_size=SIZE)
    assert torch.equal(again.text_model.embeddings.word_embeddings.weight, text.embeddings.word_embeddings.weight)


@torch.no_grad()
def test_a_joint_backbone(tmp_path) -> None:
    clip, _ = build("clip")
    clip.eval().save_pretrained(tmp_path / "clip")
    model = DualEncoderModel.from_towers(
        str(tmp_path / "clip"), str(tmp_path / "clip"), projection_dim=8, image_size=16
    )
    ids = torch.tensor([[2, 9, 10, 3], [2, 9, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    pooled = clip.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
    expected = F.normalize(model.text_projection[-1](pooled), dim=-1)
    assert torch.allclose(model.get_text_features(ids, mask).pooler_output, expected, atol=1e-5)
    images = pixels(2)[..., :16, :16]
    pooled = clip.get_image_features(pixel_values=(images.float() / 255 - 0.5) / 0.5).pooler_output
    expected = F.normalize(model.visual_projection[-1](pooled), dim=-1)
    assert torch.allclose(model.get_image_features(images).pooler_output, expected, atol=1e-5)
    model.freeze_image_layers(-1)
    assert not any(p.requires_grad for p in model.joint_model.vision_model.parameters())
    activations = model.encode_frozen_layers(images)
    assert torch.allclose(model.get_image_features(activations).pooler_output, expected, atol=1e-5)
    model.save_pretrained(tmp_path / "dual")
    loaded = AutoModel.from_pretrained(tmp_path / "dual")
    assert torch.allclose(
        loaded.get_text_features(ids, mask).pooler_output, model.get_text_features(ids, mask).pooler_output
    )


@pytest.mark.parametrize("fusion", ["weighted_sum", "mlp", "gated", "concat"])
def test_every_parameter_gets_a_gradient(fusion) -> None:
    model = make(fusion=fusion, image_pooling="gem", text_projection="mlp").train()
    with torch.no_grad():
        for module in (model.fusion,):
            for parameter in module.parameters() if module is not None else ():
                parameter.add_(0.1)
    vectors = model(**batch()).pooler_output
    (vectors @ torch.randn(vectors.shape[1])).sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    allowed = {"logit_scale"}  # the losses' own
    # one segment, so its embedding moves all tokens alike, and a layer norm after it takes out nothing of that
    assert set(without) <= allowed, without


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for enabled in (False, True):
        model = make("vit", seed=4).train()
        model.config.text_config.hidden_dropout_prob = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0
        if enabled:
            model.activation_checkpointing_enable()
            assert model.text_model.encoder.layer[0].gradient_checkpointing
        torch.manual_seed(0)
        model(**batch()).pooler_output.sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-4), name


def test_attention_implementation_reaches_the_towers(tmp_path) -> None:
    model = make("vit")
    assert model.text_model.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    eager = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.text_model.config._attn_implementation == eager.vision_model.config._attn_implementation == "eager"
    assert torch.allclose(eager(**batch()).pooler_output, model(**batch()).pooler_output, atol=1e-5)
    assert "BertLayer" in model._no_split_modules

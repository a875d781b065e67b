"""Visualized-BGE on tiny random models: against plain transformers, against itself padded otherwise, and saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from mmembed.models.visualized_bge.configuration_visualized_bge import EvaVisionConfig, VisualizedBGEConfig
from mmembed.models.visualized_bge.modeling_visualized_bge import VisualizedBGEModel

TEXT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}
KINDS = ["bert", "xlm-roberta"]


def build(kind: str = "bert", **changes: object) -> VisualizedBGEModel:
    torch.manual_seed(11)
    text = BertConfig(**TEXT) if kind == "bert" else XLMRobertaConfig(**TEXT, type_vocab_size=1)
    vision = EvaVisionConfig(24, 2, 2, 40, image_size=32, patch_size=8, initializer_range=0.2)
    config = VisualizedBGEConfig(text, vision, initializer_range=0.2, **{"empty_text_ids": [2, 3], **changes})
    return VisualizedBGEModel(config).eval()


def texts(model: VisualizedBGEModel) -> tuple[Tensor, Tensor]:
    """Three texts of 7, 5 and 3 tokens, padded on the right."""
    pad = model.config.text_config.pad_token_id
    ids = torch.tensor([[2, 10, 11, 12, 13, 14, 3], [2, 20, 21, 22, 3, pad, pad], [2, 30, 3, pad, pad, pad, pad]])
    return ids, torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 3 + [0] * 4])


def images(count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def left(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same rows with their padding on the left."""
    rows = [torch.roll(ids[row], int((mask[row] == 0).sum())) for row in range(len(ids))]
    return torch.stack(rows), mask.flip(1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_has_the_vector_that_transformers_gives_it(kind: str) -> None:
    model = build(kind)
    plain = (BertModel if kind == "bert" else XLMRobertaModel)(model.config.text_config, add_pooling_layer=False).eval()
    plain.load_state_dict(model.text_model.state_dict())
    ids, mask = texts(model)
    output = model.get_text_features(ids, mask)
    wanted = plain(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(output.last_hidden_state, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.pooler_output, F.normalize(wanted[:, 0], dim=-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_row_is_the_sequence_of_the_paper(kind: str) -> None:
    """Written out with the original's own mask, -65504 added to the scores of padding."""
    model = build(kind)
    model.set_attn_implementation("eager")
    ids, mask = texts(model)
    table = model.text_model.embeddings
    patches = model.image_tokens(images())  # (3, 16, 32)
    places = table.position_embeddings.weight
    types = table.token_type_embeddings.weight[0]
    words = table.word_embeddings.weight[ids]
    first = table.LayerNorm(words[:, :1] + types + places[0])
    shown = table.LayerNorm(patches + places[1:17])
    rest = table.LayerNorm(words[:, 1:] + types + places[17:23])
    score = (1.0 - torch.cat([torch.ones(3, 16), mask], dim=1))[:, None, None] * torch.finfo(torch.float16).min
    hidden = torch.cat([first, shown, rest], dim=1)
    for layer in model.text_model.encoder.layer:
        hidden = layer(hidden, score)
    output = model.get_fused_features(ids, images(), mask)
    torch.testing.assert_close(output.last_hidden_state, hidden, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.pooler_output, F.normalize(hidden[:, 0], dim=-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_vector_on_either_side(kind: str, pooling: str) -> None:
    model = build(kind, pooling=pooling)
    right = texts(model)
    for ids, mask in (right, left(*right)):
        text, fused = model.get_text_features(ids, mask), model.get_fused_features(ids, images(), mask)
        for row in range(3):
            alone = ids[row][mask[row].bool()][None]
            wanted = model.get_text_features(alone).pooler_output
            torch.testing.assert_close(text.pooler_output[row : row + 1], wanted, atol=1e-6, rtol=0)
            wanted = model.get_fused_features(alone, images()[row : row + 1]).pooler_output
            torch.testing.assert_close(fused.pooler_output[row : row + 1], wanted, atol=1e-6, rtol=0)


def test_the_mean_is_over_tokens_and_not_over_padding() -> None:
    model = build(pooling="mean", normalize=False)
    ids, mask = texts(model)
    output = model.get_fused_features(ids, images(), mask)
    wanted = output.last_hidden_state[1, : 16 + 5].mean(dim=0)
    torch.testing.assert_close(output.pooler_output[1], wanted, atol=1e-5, rtol=0)


def test_an_image_alone_stands_in_the_empty_text() -> None:
    model = build()
    alone = model.get_image_features(images())
    empty = model.get_fused_features(torch.tensor([[2, 3]] * 3), images())
    torch.testing.assert_close(alone.pooler_output, empty.pooler_output, atol=1e-6, rtol=0)
    assert alone.last_hidden_state.shape == (3, 16 + 2, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_rows_have_the_vectors_that_they_have_alone(kind: str) -> None:
    model = build(kind)
    ids, mask = texts(model)
    none = torch.full((1, 7), model.config.text_config.pad_token_id)
    batch = {
        "input_ids": torch.cat([ids[:1], none, ids[1:]]),
        "attention_mask": torch.cat([mask[:1], torch.zeros(1, 7, dtype=torch.int64), mask[1:]]),
        "token_type_ids": torch.zeros(4, 7, dtype=torch.int64),
        "pixel_values": images(2),
        "num_images_per_sample": torch.tensor([0, 1, 1, 0]),
    }
    vectors = model(**batch).pooler_output
    wanted = [
        model.get_text_features(ids[:1], mask[:1]),
        model.get_image_features(images(2)[:1]),
        model.get_fused_features(ids[1:2, :5], images(2)[1:]),
        model.get_text_features(ids[2:, :3]),
    ]
    torch.testing.assert_close(vectors, torch.cat([one.pooler_output for one in wanted]), atol=1e-6, rtol=0)
    only_images = {**batch, "attention_mask": torch.zeros(4, 7, dtype=torch.int64), "pixel_values": images(4)}
    only_images["num_images_per_sample"] = torch.ones(4, dtype=torch.int64)
    torch.testing.assert_close(
        model(**only_images).pooler_output, model(pixel_values=images(4)).pooler_output, atol=1e-6, rtol=0
    )


def test_pixels_are_normalised_once() -> None:
    model = build()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.config.image_mean, model.config.image_std))
    ready = (images().float() / 255 - mean) / std
    torch.testing.assert_close(
        model.get_image_features(ready).pooler_output, model.get_image_features(images()).pooler_output
    )
    with pytest.raises(ValueError, match=r"pixel_values of torch.int64; pass uint8"):
        model.get_image_features(images().to(torch.int64))


def test_rows_that_cannot_be_are_refused() -> None:
    model = build()
    ids, mask = texts(model)
    with pytest.raises(ValueError, match="pass input_ids, pixel_values or both"):
        model()
    with pytest.raises(ValueError, match=r"rows \[1\] have neither"):
        model(ids[:2], torch.tensor([[1] * 7, [0] * 7]))
    with pytest.raises(ValueError, match="more than one image"):
        model(ids, mask, pixel_values=images(), num_images_per_sample=torch.tensor([2, 1, 0]))
    with pytest.raises(ValueError, match="2 images for 3 of 3 rows"):
        model(ids, mask, pixel_values=images(2))
    with pytest.raises(ValueError, match="3 texts and 2 images"):
        model.get_fused_features(ids, images(2))


@pytest.mark.parametrize(("kind", "positions"), [("bert", 40), ("xlm-roberta", 38)])
def test_a_text_longer_than_the_positions_is_refused_and_padding_is_not(kind: str, positions: int) -> None:
    model = build(kind)
    limit = model.config.max_text_length
    assert limit == positions - 16

    def row(tokens: int, width: int) -> tuple[Tensor, Tensor]:
        mask = (torch.arange(width) < tokens).to(torch.int64)[None]
        return torch.where(mask.bool(), 10, model.config.text_config.pad_token_id), mask

    assert model.get_text_features(*row(positions, positions + 9)).pooler_output.isfinite().all()
    ids, mask = row(limit, 50)
    assert model.get_fused_features(ids, images(1), mask).pooler_output.isfinite().all()
    with pytest.raises(ValueError, match=f"a text of {positions + 1} tokens, and there are positions for {positions}"):
        model.get_text_features(*row(positions + 1, 50))
    ids, mask = row(25, 25)  # raw positions: XLM-RoBERTa has as many of them as BERT beside an image
    with pytest.raises(ValueError, match="a text of 25 tokens, and there are positions for 24"):
        model.get_fused_features(ids, images(1), mask)


def test_saved_and_loaded_it_is_the_same_with_its_own_rotary_tables(tmp_path: Path) -> None:
    """Published tables are rounded; computing them anew would change every image."""
    model = build()
    model.vision_model.rope_cos.copy_(model.vision_model.rope_cos.half().float())
    model.vision_model.rope_sin.mul_(0.9)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is VisualizedBGEModel
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert "vision_model.rope_sin" in model.state_dict()
    assert {"modeling_visualized_bge.py", "eva_tower.py", "configuration_visualized_bge.py"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_every_parameter_learns_and_a_new_model_starts_finite() -> None:
    """Nothing is there that no row moves: no pooler, no final norm of the tower, no logit scale."""
    model = build().train()
    ids, mask = texts(model)
    loss = (
        model(ids, mask, pixel_values=images(2), num_images_per_sample=torch.tensor([1, 0, 1])).pooler_output ** 3
    ).sum()
    loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert loss.isfinite()

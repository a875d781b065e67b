"""Visualized-BGE: a BGE text encoder into which an image goes as tokens between the first and the second of the text.

Zhou et al. 2024, "VISTA", https://huggingface.co/papers/2406.04292.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_visualized_bge import VisualizedBGEConfig
from .eva_tower import EvaVisionModel, rotary_tables


class VisualizedBGEModel(PreTrainedModel):
    """Texts, images and both at once as vectors of one space.

    A plain text is encoded as BGE does. A row with an image is the sequence [first token][image tokens][rest of the text]
    with positions 0, 1, 2, …, also where the encoder is an XLM-RoBERTa; an image that comes alone stands in the empty
    text. `pixel_values` of dtype uint8 are pixels and are normalised here, floating point ones are already.

    Padding may stand on either side. The original reads a left-padded row at shifted positions, pools padding, and beside
    an image masks the wrong tokens; here a row's vector is the one that it has without padding.

    Args:
        config: The settings.

    Example:
        >>> from transformers import BertConfig
        >>> from mmembed.models.visualized_bge.configuration_visualized_bge import EvaVisionConfig
        >>> text = BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        >>> vision = EvaVisionConfig(16, 1, 2, 24, image_size=16, patch_size=8)
        >>> model = VisualizedBGEModel(VisualizedBGEConfig(text, vision, empty_text_ids=[2, 3])).eval()
        >>> model(pixel_values=torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).pooler_output.shape
        torch.Size([2, 16])
    """

    config_class = VisualizedBGEConfig
    base_model_prefix = "visualized_bge"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _tied_weights_keys: Any = None

    def __init__(self, config: VisualizedBGEConfig) -> None:
        super().__init__(config)
        # No pooler: nothing reads it, and it would never learn.
        self.text_model = AutoModel.from_config(
            config.text_config, dtype=torch.get_default_dtype(), add_pooling_layer=False
        )
        self.vision_model = EvaVisionModel(config.vision_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EvaVisionModel):
            std = module.config.initializer_range
            init.trunc_normal_(module.class_token, std=std)
            init.trunc_normal_(module.position_embedding, std=std)
            cos, sin = rotary_tables(module.config)
            init.copy_(module.rope_cos, cos)
            init.copy_(module.rope_sin, sin)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    # --- text ---------------------------------------------------------------------------------------------------

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Vectors of texts.

        Args:
            input_ids: int64 (rows, length).
            attention_mask: int64 (rows, length), 1 where a token stands; all ones when None.
            token_type_ids: Taken because BERT's tokenizer returns it; every token has type 0, as in the original.

        Returns:
            `pooler_output` (rows, hidden_size), L2-normalised, and `last_hidden_state` (rows, length, hidden_size), a
            row's tokens before its padding.

        Raises:
            ValueError: If a text is longer than the positions.
        """
        ids, mask = self._packed(input_ids, attention_mask, self.config.max_tokens)
        hidden = self.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
        return self._pooled(hidden, mask)

    @staticmethod
    def _packed(ids: Tensor, mask: Tensor | None, room: int) -> tuple[Tensor, Tensor]:
        """Each row's tokens before its padding, at most `room` of them."""
        if mask is None:
            mask = torch.ones_like(ids)
        else:
            order = (mask == 0).to(torch.int64).argsort(dim=1, stable=True)
            ids, mask = ids.gather(1, order), mask.gather(1, order)
        if ids.shape[1] > room:
            longest = int(mask.sum(dim=1).max())
            if longest > room:
                raise ValueError(
                    f"a text of {longest} tokens, and there are positions for {room} (beside an image its tokens take "
                    "theirs); have the tokenizer cut texts at config.max_text_length."
                )
            ids, mask = ids[:, :room], mask[:, :room]
        return ids, mask

    def _pooled(self, hidden: Tensor, mask: Tensor) -> BaseModelOutputWithPooling:
        if self.config.pooling == "cls":
            vectors = hidden[:, 0]
        else:
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            vectors = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        if self.config.normalize:
            vectors = F.normalize(vectors, dim=-1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=vectors)

    # --- image --------------------------------------------------------------------------------------------------

    def get_image_features(
        self, pixel_values: Tensor, patch_indices: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Vectors of images that come alone.

        Args:
            pixel_values: uint8 (images, 3, height, width), or floating point, normalised.
            patch_indices: int64 (images, kept), see `EvaVisionModel.forward`.

        Returns:
            `pooler_output` (images, hidden_size), L2-normalised, and `last_hidden_state` (images, tokens, hidden_size) of
            [first token][image tokens][rest of the empty text].
        """
        ids, mask = self._empty_texts(pixel_values.shape[0], len(self.config.empty_text_ids))
        return self._image_rows(ids, mask, self.image_tokens(pixel_values, patch_indices))

    def image_tokens(self, pixel_values: Tensor, patch_indices: Tensor | None = None) -> Tensor:
        """Images as tokens of the text encoder's width, before their positions are added.

        Args:
            pixel_values: uint8 (images, 3, height, width), or floating point, normalised.
            patch_indices: int64 (images, kept), see `EvaVisionModel.forward`.

        Returns:
            (images, patches kept, hidden_size).
        """
        tokens = self.vision_model(self._normalized(pixel_values), patch_indices)
        return self.visual_projection(tokens[:, 1:])

    def _normalized(self, pixel_values: Tensor) -> Tensor:
        pixels = pixel_values.to(self.device, non_blocking=True)
        if pixels.dtype == torch.uint8:
            shape = (1, -1, 1, 1)
            mean = torch.tensor(self.config.image_mean, device=pixels.device).view(shape)
            std = torch.tensor(self.config.image_std, device=pixels.device).view(shape)
            pixels = (pixels.to(torch.float32) / 255 - mean) / std
        elif not pixels.is_floating_point():
            raise ValueError(f"pixel_values of {pixels.dtype}; pass uint8 pixels, or normalised floating point ones.")
        else:
            _refuse_unscaled(pixels)
        return pixels.to(self.dtype)

    def _empty_texts(self, rows: int, width: int) -> tuple[Tensor, Tensor]:
        """Ids and mask (rows, width) of the empty text."""
        empty = torch.tensor(self.config.empty_text_ids, device=self.device)
        padding = width - len(empty)
        ids = F.pad(empty, (0, padding), value=self.config.text_config.pad_token_id or 0)
        mask = F.pad(torch.ones_like(empty), (0, padding))
        return ids.expand(rows, -1), mask.expand(rows, -1)

    # --- both ---------------------------------------------------------------------------------------------------

    def get_fused_features(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        patch_indices: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Vectors of rows that have both a text and an image.

        Args:
            input_ids: int64 (rows, length).
            pixel_values: uint8 (rows, 3, height, width), or floating point, normalised.
            attention_mask: int64 (rows, length); a row of zeros counts as the empty text.
            token_type_ids: Not read, see `get_text_features`.
            patch_indices: int64 (rows, kept), see `EvaVisionModel.forward`.

        Returns:
            `pooler_output` (rows, hidden_size), L2-normalised, and `last_hidden_state` (rows, tokens, hidden_size) of
            [first token][image tokens][rest of the text], padding last.

        Raises:
            ValueError: If texts and images differ in number, or both together are longer than the positions.
        """
        if input_ids.shape[0] != pixel_values.shape[0]:
            raise ValueError(f"{len(input_ids)} texts and {len(pixel_values)} images; fused rows have one of each.")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._image_rows(input_ids, mask, self.image_tokens(pixel_values, patch_indices))

    def _image_rows(self, ids: Tensor, mask: Tensor, image: Tensor) -> BaseModelOutputWithPooling:
        """Ids and mask (rows, length), image tokens (rows, patches, hidden_size) → the rows' vectors."""
        count = image.shape[1]
        ids, mask = self._packed(ids, mask, self.config.text_config.max_position_embeddings - count)
        silent = ~mask.bool().any(dim=1, keepdim=True)  # (rows, 1)
        width = max(mask.shape[1], len(self.config.empty_text_ids))
        padding = (0, width - mask.shape[1])
        empty_ids, empty_mask = self._empty_texts(ids.shape[0], width)
        ids = torch.where(silent, empty_ids, F.pad(ids, padding, value=self.config.text_config.pad_token_id or 0))
        mask = torch.where(silent, empty_mask.to(mask.dtype), F.pad(mask, padding))

        embeddings = self.text_model.embeddings
        positions = torch.arange(count + width, device=ids.device)
        text = embeddings(
            input_ids=ids,
            position_ids=torch.cat([positions[:1], positions[count + 1 :]]).expand(ids.shape[0], -1),
            token_type_ids=torch.zeros_like(ids),
        )
        # Neither a token type nor dropout, as in the original.
        image = embeddings.LayerNorm(image + embeddings.position_embeddings(positions[1 : count + 1]))
        hidden = torch.cat([text[:, :1], image, text[:, 1:]], dim=1)
        # The first token is always there.
        mask = torch.cat([mask.new_ones(mask.shape[0], count), mask], dim=1)
        # The original adds -65504 to padding's scores, in every precision: after the softmax that is zero too.
        allowed = create_bidirectional_mask(config=self.text_model.config, inputs_embeds=hidden, attention_mask=mask)
        hidden = self.text_model.encoder(hidden, attention_mask=allowed).last_hidden_state
        return self._pooled(hidden, mask)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        num_images_per_sample: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Vectors of rows of which some have a text, some an image and some both; what is present decides.

        Args:
            input_ids: int64 (rows, length).
            attention_mask: int64 (rows, length); a row without text is all zero.
            token_type_ids: Not read, see `get_text_features`.
            pixel_values: uint8 (images, 3, height, width) of the rows that have one, in row order; or floating point,
                normalised.
            num_images_per_sample: int64 (rows,), 0 or 1; may be left out when every row has an image.
            return_dict: Taken for the callers that pass it; the output is always a `ModelOutput`.

        Returns:
            `pooler_output` (rows, hidden_size), L2-normalised.

        Raises:
            ValueError: If a row has neither text nor image, the counts do not fit, or a row is longer than the positions.
        """
        if input_ids is None:
            if pixel_values is None:
                raise ValueError("pass input_ids, pixel_values or both.")
            return BaseModelOutputWithPooling(pooler_output=self.get_image_features(pixel_values).pooler_output)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        has_text = attention_mask.bool().any(dim=1)  # (rows,)
        has_image = self._rows_with_image(has_text, pixel_values, num_images_per_sample)
        missing = (~has_text & ~has_image).nonzero().flatten().tolist()
        if missing:
            raise ValueError(f"rows {missing[:10]} have neither a text nor an image.")
        parts, rows = [], []
        if bool((~has_image).any()):
            parts.append(self.get_text_features(*_cut(input_ids, attention_mask, ~has_image)).pooler_output)
            rows.append((~has_image).nonzero().flatten())
        if pixel_values is not None and bool(has_image.any()):
            image = self.image_tokens(pixel_values)
            parts.append(self._image_rows(*_cut(input_ids, attention_mask, has_image), image).pooler_output)
            rows.append(has_image.nonzero().flatten())
        order = torch.cat(rows).argsort()
        return BaseModelOutputWithPooling(pooler_output=torch.cat(parts)[order])

    @staticmethod
    def _rows_with_image(has_text: Tensor, pixel_values: Tensor | None, counts: Tensor | None) -> Tensor:
        if pixel_values is None:
            return torch.zeros_like(has_text)
        if counts is None:
            counts = torch.ones(len(has_text), dtype=torch.int64)
        if int(counts.max()) > 1:
            raise ValueError("a row has more than one image; Visualized-BGE takes one image a row.")
        if len(counts) != len(has_text) or int(counts.sum()) != len(pixel_values):
            raise ValueError(
                f"{len(pixel_values)} images for {int(counts.sum())} of {len(has_text)} rows; pass "
                "num_images_per_sample with one 0 or 1 a row."
            )
        return counts.to(has_text.device).bool()


def _cut(ids: Tensor, mask: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """These rows, without the columns in which all of them are padding."""
    ids, mask = ids[rows], mask[rows]
    used = mask.bool().any(dim=0)
    return ids[:, used], mask[:, used]


def _refuse_unscaled(pixels: Tensor) -> None:
    """Raise where floating point pixels lie in 0..255: training saw normalised ones, a few units around 0."""
    if torch.compiler.is_compiling() or not pixels.numel():
        return  # an exported graph takes what it is given
    largest = float(pixels.detach().abs().amax())
    if largest > 20:
        raise ValueError(
            f"floating point pixel_values of up to {largest:.6g} were never scaled; pass uint8 pixels, or normalised ones."
        )

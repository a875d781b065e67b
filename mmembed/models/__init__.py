"""What turns an input into a vector. Importing this makes our own models known to transformers' Auto classes."""

from typing import Any

from transformers import AutoConfig, AutoModel, AutoProcessor

from mmembed.models.blip_bi_encoder.configuration_blip_bi_encoder import BlipBiEncoderConfig
from mmembed.models.blip_bi_encoder.modeling_blip_bi_encoder import BlipBiEncoderModel
from mmembed.models.chinese_clip_resnet.configuration_chinese_clip_resnet import ChineseCLIPResNetConfig
from mmembed.models.chinese_clip_resnet.modeling_chinese_clip_resnet import ChineseCLIPResNetModel
from mmembed.models.dual_encoder.configuration_dual_encoder import DualEncoderConfig
from mmembed.models.dual_encoder.modeling_dual_encoder import DualEncoderModel
from mmembed.models.dual_encoder.processing_dual_encoder import DualEncoderProcessor
from mmembed.models.image_tower.configuration_image_tower import ImageTowerConfig
from mmembed.models.image_tower.modeling_image_tower import ImageTowerModel
from mmembed.models.image_tower.processing_image_tower import ImageTowerProcessor
from mmembed.models.visualized_bge.configuration_visualized_bge import VisualizedBGEConfig
from mmembed.models.visualized_bge.modeling_visualized_bge import VisualizedBGEModel

# (configuration, model, processor) of each model of ours. The dual encoder's processor serves any model of texts and images.
OWN_MODELS: list[tuple[Any, Any, Any]] = [
    (DualEncoderConfig, DualEncoderModel, DualEncoderProcessor),
    (ChineseCLIPResNetConfig, ChineseCLIPResNetModel, DualEncoderProcessor),
    (BlipBiEncoderConfig, BlipBiEncoderModel, DualEncoderProcessor),
    (ImageTowerConfig, ImageTowerModel, ImageTowerProcessor),
    (VisualizedBGEConfig, VisualizedBGEModel, DualEncoderProcessor),
]

for _config, _model, _processor in OWN_MODELS:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoProcessor.register(_config, _processor, exist_ok=True)
    # A saved folder holds the files of these classes, so that it also loads where mmembed is not installed.
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
    _processor.register_for_auto_class("AutoProcessor")


__all__ = [
    "OWN_MODELS",
    "BlipBiEncoderConfig",
    "BlipBiEncoderModel",
    "ChineseCLIPResNetConfig",
    "ChineseCLIPResNetModel",
    "DualEncoderConfig",
    "DualEncoderModel",
    "DualEncoderProcessor",
    "ImageTowerConfig",
    "ImageTowerModel",
    "ImageTowerProcessor",
    "VisualizedBGEConfig",
    "VisualizedBGEModel",
]

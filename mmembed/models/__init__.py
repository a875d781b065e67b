"""What turns an input into a vector. Importing this makes our own models known to transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from mmembed.models.dual_encoder.configuration_dual_encoder import DualEncoderConfig
from mmembed.models.dual_encoder.modeling_dual_encoder import DualEncoderModel
from mmembed.models.dual_encoder.processing_dual_encoder import DualEncoderProcessor

AutoConfig.register(DualEncoderConfig.model_type, DualEncoderConfig, exist_ok=True)
AutoModel.register(DualEncoderConfig, DualEncoderModel, exist_ok=True)
AutoProcessor.register(DualEncoderConfig, DualEncoderProcessor, exist_ok=True)

# A saved folder holds the files of these classes, so that it also loads where mmembed is not installed.
DualEncoderConfig.register_for_auto_class()
DualEncoderModel.register_for_auto_class("AutoModel")
DualEncoderProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["DualEncoderConfig", "DualEncoderModel", "DualEncoderProcessor"]

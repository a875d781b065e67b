"""Chinese-CLIP's RN50: OpenAI's modified ResNet with attention pooling beside a three-layer Chinese BERT."""

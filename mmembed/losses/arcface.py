"""ArcFace: classify each image among the groups by angle, with a margin that its own group must win by.

For an embedding x of class y, class centres w_j, s = scale, m = margin and cos_j = x·w_j / (|x| |w_j|):

    target = cos(angle_y + m) = cos_y cos m - sin_y sin m
    loss   = -log( exp(s target) / (exp(s target) + sum_{j != y} exp(s cos_j)) )

Where angle_y + m would pass pi, target falls on linearly: cos_y - m sin(pi - m) for cos_y <= cos(pi - m) ("hard"); with
`easy_margin`, target is cos_y itself for cos_y <= 0. (Deng et al. 2019, https://arxiv.org/abs/1801.07698.)

* Sub-centres: K centres a class, cos_j is that of the nearest (Deng et al. 2020, "Sub-center ArcFace").
* Class-size-adaptive margins: m_y falls with the class's count n_y as n_y**-0.25, scaled into [least_margin, margin]
  (Ha et al. 2020, https://arxiv.org/abs/2010.05350).
* Growing margins: m(t) = m (start + (1 - start) min(1, t / growth)), t in 0..1 being the progress of the training.
* Label smoothing of the cross entropy, or in the logits (`logit_smoothing`, the ls_eps of public Shopee kernels): with
  h_j = (1 - e) [j = y] + e / C, logit_j = s (h_j target_j + (1 - h_j) cos_j).

sin = sqrt(1 - cos²) has no slope at cos = ±1; there, sin is held constant, so that the gradient stays finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import TrainerCallback

# Below what float32 tells from zero in 1 - cos², so it acts on exact poles only.
_LEAST_SIN_SQUARED = 1e-12


class ArcFaceLoss(nn.Module):
    """Additive angular margin loss over classes, whose centres are parameters of the loss, `weight`.

    Args:
        model: The model in training.
        num_classes: How many classes there are.
        dim: Length of the embeddings; the model's own when None.
        class_keys: Key of each class (`mmembed.data.keys.group_key` of its group), all distinct, for labels that are keys.
        scale: Inverse temperature.
        margin: Angle in radians; of the smallest class where `class_counts` is given.
        easy_margin: See above.
        sub_centres: Centres a class.
        label_smoothing: Of the cross entropy, in [0, 1).
        logit_smoothing: Of the logits, in [0, 1).
        class_counts: Rows of each class, for class-size-adaptive margins; None gives all the same.
        least_margin: Margin of the largest class, where `class_counts` is given.
        start: Share of the margin at the beginning of the training.
        growth: Share of the training, in steps, after which the margin is whole. Both act through `MarginGrowth`.
        seed: Of the centres at the start.

    Inputs: any number of columns of (batch) images, each embedded to (batch, dim); labels int64 (batch,), numbers of
    classes, or (batch, columns, 3), keys whose first is the group's, as `EmbeddingTrainer` gives them.

    Raises:
        ValueError: If an argument is out of its range, or a label is no class.

    Example:
        >>> loss = ArcFaceLoss(nn.Identity(), num_classes=2, dim=2, scale=1.0, margin=math.pi / 6)
        >>> _ = loss.weight.data.copy_(torch.eye(2))
        >>> x = torch.tensor([[1.0, 0.0]])
        >>> logits = loss.logits(x, torch.tensor([0]))  # cos(30°) and cos(90°)
        >>> [round(v, 4) for v in logits[0].tolist()], round(loss.classify(x, torch.tensor([0])).item(), 4)
        ([0.866, 0.0], 0.351)
    """

    def __init__(
        self,
        model: SentenceTransformer | nn.Module,
        num_classes: int,
        dim: int | None = None,
        class_keys: Sequence[int] | Tensor | None = None,
        scale: float = 30.0,
        margin: float = 0.5,
        easy_margin: bool = False,
        sub_centres: int = 1,
        label_smoothing: float = 0.0,
        logit_smoothing: float = 0.0,
        class_counts: Sequence[int] | Tensor | None = None,
        least_margin: float = 0.05,
        start: float = 1.0,
        growth: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_classes < 2 or sub_centres < 1 or not scale > 0:
            raise ValueError(
                f"num_classes={num_classes}, sub_centres={sub_centres}, scale={scale}; give at least 2, 1 and above 0."
            )
        for name, value in (("margin", margin), ("least_margin", least_margin)):
            if not 0 <= value < math.pi:
                raise ValueError(f"{name}={value}; an angle in radians from 0 to pi.")
        for name, value in (("label_smoothing", label_smoothing), ("logit_smoothing", logit_smoothing)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value}; it must lie in [0, 1).")
        if not 0 <= start <= 1 or not 0 < growth <= 1:
            raise ValueError(f"start={start} and growth={growth}; shares, from 0 to 1, growth above 0.")
        self.model = model
        self.num_classes, self.sub_centres = num_classes, sub_centres
        self.scale, self.margin, self.easy_margin = float(scale), float(margin), easy_margin
        self.label_smoothing, self.logit_smoothing = label_smoothing, logit_smoothing
        self.least_margin, self.start, self.growth = least_margin, start, growth
        self.progress = 1.0 if start == 1 else 0.0
        if dim is None:
            dim = model.get_embedding_dimension()
        generator = torch.Generator().manual_seed(seed)
        # rows class by class: (classes * sub_centres, dim)
        self.weight = nn.Parameter(torch.empty(num_classes * sub_centres, dim))
        nn.init.xavier_uniform_(self.weight, generator=generator)
        margins = torch.full((num_classes,), self.margin)
        if class_counts is not None:
            margins = adaptive_margins(_checked("class_counts", class_counts, num_classes), least_margin, self.margin)
        self.register_buffer("margins", margins, persistent=False)
        keys, order = None, None
        if class_keys is not None:
            keys, order = _checked("class_keys", class_keys, num_classes).sort()
            if bool((keys[1:] == keys[:-1]).any()):
                raise ValueError("class_keys holds a key twice; each class needs its own.")
        self.register_buffer("sorted_keys", keys, persistent=False)
        self.register_buffer("class_of_key", order, persistent=False)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        embeddings = [self.model(features)["sentence_embedding"] for features in sentence_features]
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        """The mean loss over all rows of all columns.

        Args:
            embeddings: One (batch, dim) tensor a column.
            labels: See above.

        Returns:
            A scalar.
        """
        columns = [self._classes(labels, column) for column in range(len(embeddings))]
        return self.classify(torch.cat(embeddings), torch.cat(columns))

    def classify(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The mean cross entropy of (rows, dim) embeddings of the given (rows,) classes."""
        return F.cross_entropy(self.logits(embeddings, classes), classes, label_smoothing=self.label_smoothing)

    def logits(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The scaled cosines, with the margin where it belongs.

        Args:
            embeddings: (rows, dim), of any length.
            classes: int64 (rows,).

        Returns:
            float32 (rows, num_classes).
        """
        # In float32 also under autocast: a margin of .5 changes a cosine near 1 by less than bfloat16 resolves.
        with torch.autocast(embeddings.device.type, enabled=False):
            rows, centres = F.normalize(embeddings.float(), dim=-1), F.normalize(self.weight.float(), dim=-1)
            cosines = (rows @ centres.T).unflatten(1, (self.num_classes, self.sub_centres)).amax(dim=2)
            margins = self.margins[classes].unsqueeze(1) * self._share()  # (rows, 1)
            if not self.logit_smoothing:
                target = self._with_margin(cosines.gather(1, classes.unsqueeze(1)), margins)
                return self.scale * cosines.scatter(1, classes.unsqueeze(1), target)
            weights = torch.full_like(cosines, self.logit_smoothing / self.num_classes)
            own = torch.full_like(margins, 1 - self.logit_smoothing)
            weights = weights.scatter_add(1, classes.unsqueeze(1), own)
            return self.scale * (weights * self._with_margin(cosines, margins) + (1 - weights) * cosines)

    def _with_margin(self, cosines: Tensor, margins: Tensor) -> Tensor:
        sines = (1 - cosines.square()).clamp(min=_LEAST_SIN_SQUARED).sqrt()
        shifted = cosines * margins.cos() - sines * margins.sin()
        if self.easy_margin:
            return torch.where(cosines > 0, shifted, cosines)
        beyond = cosines - margins * (math.pi - margins).sin()
        return torch.where(cosines > (math.pi - margins).cos(), shifted, beyond)

    def _share(self) -> float:
        return self.start + (1 - self.start) * min(1.0, self.progress / self.growth)

    def _classes(self, labels: Tensor, column: int) -> Tensor:
        """int64 (batch,), numbers of classes."""
        if labels is None:
            raise ValueError(
                "ArcFaceLoss needs labels; EmbeddingTrainer gives them where mask_false_negatives is True."
            )
        if labels.ndim == 1:
            wrong = labels[(labels < 0) | (labels >= self.num_classes)]
            if len(wrong):
                raise ValueError(f"label {int(wrong[0])} is not in 0..{self.num_classes - 1}.")
            return labels
        if self.sorted_keys is None:
            raise ValueError(f"labels of shape {tuple(labels.shape)} are keys; give class_keys, the key of each class.")
        keys = labels[:, column, 0].contiguous()
        place = torch.searchsorted(self.sorted_keys, keys).clamp(max=self.num_classes - 1)
        unknown = (self.sorted_keys[place] != keys).nonzero().flatten().tolist()
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(keys)} rows of column {column + 1} are of no class (first: row {unknown[0]} of the "
                "batch); each needs a group that is among the classes."
            )
        return self.class_of_key[place]

    def get_config_dict(self) -> dict[str, Any]:
        """What a model card says of the loss."""
        names = ("num_classes", "scale", "margin", "easy_margin", "sub_centres", "label_smoothing", "logit_smoothing")
        return {name: getattr(self, name) for name in (*names, "least_margin", "start", "growth")}

    @property
    def citation(self) -> str:
        return (
            "@inproceedings{deng2019arcface,\n    title={ArcFace: Additive Angular Margin Loss for Deep Face Recognition},\n"
            "    author={Deng, Jiankang and Guo, Jia and Xue, Niannan and Zafeiriou, Stefanos},\n    booktitle={CVPR},\n"
            "    year={2019}\n}"
        )


class MarginGrowth(TrainerCallback):
    """Tells an `ArcFaceLoss` how far the training is, so that its margin grows; a resumed run goes on where it was.

    Args:
        loss: The loss.
    """

    def __init__(self, loss: ArcFaceLoss) -> None:
        self.loss = loss

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss.progress = state.global_step / max(1, state.max_steps)


def adaptive_margins(counts: Tensor, least: float, most: float, power: float = 0.25) -> Tensor:
    """A margin for each class: the smallest class gets the most, the largest the least.

    Args:
        counts: int64 (classes,), rows of each class.
        least: Margin of the largest class.
        most: Margin of the smallest class, and of all where they are of one size.
        power: How fast it falls.

    Returns:
        float32 (classes,).

    Raises:
        ValueError: If a class has no row, or least is above most.

    Example:
        >>> adaptive_margins(torch.tensor([1, 16, 81]), 0.05, 0.5).tolist()
        [0.5, 0.1625, 0.05]
    """
    if least > most:
        raise ValueError(f"least_margin={least} is above margin={most}.")
    if bool((counts < 1).any()):
        raise ValueError(f"class {int((counts < 1).nonzero()[0])} has no row; leave it out.")
    rarity = counts.to(torch.float64) ** -power
    span = rarity.max() - rarity.min()
    share = (rarity - rarity.min()) / span if span > 0 else torch.ones_like(rarity)
    return (least + (most - least) * share).to(torch.float32)


def _checked(name: str, values: Sequence[int] | Tensor, num_classes: int) -> Tensor:
    tensor = torch.as_tensor(values, dtype=torch.int64)
    if tensor.shape != (num_classes,):
        raise ValueError(
            f"{name} of shape {tuple(tensor.shape)}; it needs one value for each of {num_classes} classes."
        )
    return tensor

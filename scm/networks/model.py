"""The network F(x_t / sigma_d, c_noise(t), conditions) and the learned weight w_phi(t) of the loss (sec. 4.2)."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from scm.networks.architectures import architecture
from scm.networks.dropout import seeds_of_samples
from scm.networks.embedding import FourierEmbedding
from scm.networks.magnitude import MPConv
from scm.networks.settings import NetworkSettings

WEIGHT_FEATURES = 128
"""Number of Fourier features in w_phi, as in EDM2's log-variance head."""


GUIDE = "guide."
"""Beginning of the names of the tensors of a model's guide in the model's state."""


class LogWeight(nn.Module):
    """w_phi as a linear function of Fourier features of t, zero at the start. [B] -> [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = FourierEmbedding(WEIGHT_FEATURES)
        self.linear = nn.Linear(WEIGHT_FEATURES, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, t: Tensor) -> Tensor:
        return self.linear(self.features(t)).squeeze(1)


class LogVariance(nn.Module):
    """EDM2's own head: w_phi = -u, with u(c_noise) from a layer of unit rows (EDM2 eq. 21). [B] -> [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = FourierEmbedding(WEIGHT_FEATURES)
        self.linear = MPConv(WEIGHT_FEATURES, 1, 0)

    def forward(self, c_noise: Tensor) -> Tensor:
        return -self.linear(self.features(c_noise)).squeeze(1)


class Model(nn.Module):
    """F and w_phi.

    F is TrigFlow's. A network trained as EDM's has the opposite sign (F_trig = -F_edm), so an import negates the
    weights of its last layer.

    Args:
        settings: the network.
        dropout: probability of dropout in training, at resolutions <= `dropout_max_resolution`.
        precision: type of convolutions and attention; embeddings, norms, w_phi and the last layer stay float32. Weights
            in float64 (`model.double()`) compute in float64 whatever the precision.

    Attributes:
        guide: a network that guides this one (scm.samplers.guidance); None = it guides itself, if anything does.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        *,
        dropout: float = 0.0,
        dropout_max_resolution: int = 16,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.settings, self.precision, self.dropout = settings, precision, dropout
        self.network = architecture(settings.architecture).NETWORK(settings, dropout, dropout_max_resolution)
        self.log_weight_head = LogWeight() if settings.log_weight == "linear" else LogVariance()
        self.guide: Model | None = None

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        guidance: Tensor | None = None,
        segment: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """F(x, t).

        Args:
            x: x_t / sigma_d, [B, C, R, R].
            t: radians, [B].
            labels: int64 [B], -1 = no label; None = no labels at all; float [B, classes] = rows between the one-hot
                rows of classes.
            guidance: guidance scale, [B]; only for a network with `settings.guidance`.
            segment: the time that a jump from t ends at, radians [B]; only for one with `settings.segments`.
            augment: how each sample was augmented, [B, 9], only for a network with `settings.augment`; None = not at
                all, as for all samples that are drawn.

        Returns:
            [B, C, R, R] in x's type.

        Raises:
            ValueError: an input that the network takes is missing, or one that it does not take is given.
        """
        for name, value, taken in (
            ("guidance", guidance, self.settings.guidance),
            ("segment", segment, self.settings.segments),
        ):
            if (value is not None) != taken:
                raise ValueError(f"this network {'needs' if taken else 'takes no'} {name}")
        if augment is not None and not self.settings.augment:
            raise ValueError("this network takes no augment")
        stored = self.log_weight_head.linear.weight.dtype
        t, rows = t.to(stored), self._one_hot(labels, t) if self.settings.classes else None
        further = [value if value is None else value.to(stored) for value in (guidance, segment)]
        compute = stored if stored == torch.float64 else self.precision
        seeds = seeds_of_samples(t.shape[0], t.device) if self.training and self.dropout else None
        told = {} if augment is None else {"augment": augment.to(stored)}
        return self.network(x.to(compute), self._c_noise(t), rows, *further, seeds, **told).to(x.dtype)

    def log_weight(self, t: Tensor) -> Tensor:
        """w_phi(t), [B] -> [B]: the learned log weight of the loss at t (sec. 4.2, adaptive weighting)."""
        t = t.to(self.log_weight_head.linear.weight.dtype)
        return self.log_weight_head(self._c_noise(t) if self.settings.log_weight == "edm2" else t)

    def _c_noise(self, t: Tensor) -> Tensor:
        """The time as the network receives it: t (sec. 3), or EDM's ln(sigma) / 4 with sigma = sigma_d tan t."""
        return t if self.settings.c_noise == "t" else torch.log(torch.tan(t) * self.settings.sigma_d) / 4

    def _one_hot(self, labels: Tensor | None, t: Tensor) -> Tensor:
        """One-hot rows; a sample without label has a row of zeros. [B, classes]."""
        if labels is not None and labels.is_floating_point():
            return labels.to(self.log_weight_head.linear.weight.dtype)
        classes = torch.arange(self.settings.classes, device=t.device)
        labels = torch.full(t.shape, -1, device=t.device) if labels is None else labels
        return (labels[:, None] == classes).to(self.log_weight_head.linear.weight.dtype)


@contextmanager
def evaluating(module: nn.Module) -> Generator[None, None, None]:
    """The module in eval mode, without dropout, for the block."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)

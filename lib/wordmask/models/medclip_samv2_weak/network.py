"""A network as planned by nnU-Net, and an ensemble of such networks with different weights.

nnU-Net is an optional package. Knows torch and how nnU-Net builds a network; not slices, words or trainings.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from torch import Tensor, nn

from wordmask.environment.packages import BrokenEnvironmentError
from wordmask.errors import WeightsError
from wordmask.weights.card import Card

# Packages that a class named in a card may come from.
NETWORKS, LAYERS = "dynamic_network_architectures.", "torch.nn."


class NetworkPlan(BaseModel):
    """A network of nnU-Net's plans in plain JSON; classes are named and never pickled.

    Attributes:
        network_class: its dotted name.
        arguments: for the class.
        imported: names of the arguments that are dotted names of classes themselves.
        inputs: number of input channels.
        outputs: number of output channels: background and one per word.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network_class: str
    arguments: dict[str, Any]
    imported: tuple[str, ...]
    inputs: PositiveInt
    outputs: PositiveInt

    def build(self) -> nn.Module:
        """Build the network with random weights; its output has the resolution of its input.

        Raises:
            WeightsError: the plan does not describe a network of nnU-Net.
            BrokenEnvironmentError: nnU-Net is not installed.
        """
        require_nnunet()
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        named = [
            (self.network_class, NETWORKS),
            *((self.arguments.get(name), LAYERS) for name in self.imported),
        ]
        # Otherwise a card could call any function.
        if not all(name is None or str(name).startswith(home) for name, home in named):
            raise WeightsError("The weights name a network that is not part of nnU-Net; train them again.")
        try:
            network: nn.Module = get_network_from_plans(
                self.network_class,
                self.arguments,
                self.imported,
                self.inputs,
                self.outputs,
                allow_init=False,
                deep_supervision=False,
            )
        except (
            TypeError,
            ValueError,
            KeyError,
            ImportError,
            AttributeError,
            AssertionError,
            IndexError,
        ) as error:
            raise WeightsError(
                f"The network of these weights cannot be built ({type(error).__name__}); install the nnU-Net "
                "that they were trained with."
            ) from error
        return network


class Ensemble(nn.Module):
    """Networks of one plan that vote with their probabilities."""

    def __init__(self, plan: NetworkPlan, count: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(plan.build() for _ in range(count))

    def forward(self, pixels: Tensor) -> Tensor:
        """Mean probability of every word, [N, outputs - 1, S, S], for pixels [N, inputs, S, S] in 0..1."""
        total = sum(member(pixels).softmax(dim=1)[:, 1:] for member in self.members)
        return torch.as_tensor(total) / len(self.members)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the weights of all networks.

        Args:
            tensors: named ``members.<n>.<name>``, each weight once.

        Raises:
            WeightsError: the weights are of other networks.
        """
        # Unlike a state dict, this names the encoder only once, although the decoder contains it, too.
        own = dict(self.named_parameters())
        wrong = own.keys() ^ tensors.keys() | {
            name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape
        }
        if wrong:
            raise WeightsError(
                f"The weights do not fit the network in their card: {len(wrong)} parts, such as "
                f"{min(wrong)}; train them again."
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])


def as_members(networks: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The named parameters of single networks as `Ensemble.load` takes them."""
    return {
        f"members.{number}.{name}": tensor
        for number, own in enumerate(networks)
        for name, tensor in own.items()
    }


def read_plan(card: Card) -> NetworkPlan:
    """The network in a card; WeightsError when the card does not describe one."""
    try:
        return NetworkPlan.model_validate(card.network)
    except ValidationError as error:
        raise WeightsError(
            "The weights do not say which network they belong to, so they cannot be used; train them again."
        ) from error


def require_nnunet() -> None:
    """Raise BrokenEnvironmentError, with the command to type, when nnU-Net is not installed."""
    if importlib.util.find_spec("nnunetv2") is None:
        raise BrokenEnvironmentError(
            'medclip_samv2_weak requires nnU-Net, which is missing; type `pip install "wordmask[nnunet]"`.'
        )

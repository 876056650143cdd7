"""A network as nnU-Net planned it, and the ensemble of several with different weights.

Knows nnU-Net's way to build a network, and torch; not slices, words or trainings. nnU-Net is an optional
package.
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

NETWORKS, LAYERS = (
    "dynamic_network_architectures.",
    "torch.nn.",
)  # where a class may come from that a card names


class NetworkPlan(BaseModel):
    """What nnU-Net's plans say of a network, in plain JSON, and its channels.

    Classes are named and never pickled.

    outputs: background and one channel per word.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network_class: str
    arguments: dict[str, Any]
    imported: tuple[str, ...]
    inputs: PositiveInt
    outputs: PositiveInt

    def build(self) -> nn.Module:
        """A network with random weights that gives one map at the resolution of its input.

        WeightsError: the plan is of no network.
        """
        require_nnunet()
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        named = [
            (self.network_class, NETWORKS),
            *((self.arguments.get(name), LAYERS) for name in self.imported),
        ]
        if not all(
            name is None or str(name).startswith(home) for name, home in named
        ):  # else a card could call anything
            raise WeightsError("The weights name a network that is not of nnU-Net; train them anew.")
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
        """pixels: [N, inputs, S, S] in 0..1.

        Returns the mean probability of every word, [N, outputs - 1, S, S].
        """
        total = sum(member(pixels).softmax(dim=1)[:, 1:] for member in self.members)
        return torch.as_tensor(total) / len(self.members)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """tensors: ``members.<n>.<name>``, each weight once. WeightsError: they are of other networks."""
        own = dict(
            self.named_parameters()
        )  # unlike a state dict, it names the encoder once, which the decoder holds, too
        wrong = own.keys() ^ tensors.keys() | {
            name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape
        }
        if wrong:
            raise WeightsError(
                f"The weights do not fit the network in their card: {len(wrong)} parts, such as "
                f"{min(wrong)}; train anew."
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
    """What a card says under ``network``; WeightsError: nothing usable."""
    try:
        return NetworkPlan.model_validate(card.network)
    except ValidationError as error:
        raise WeightsError(
            "The weights do not say which network they are of, so they cannot be used; train them anew."
        ) from error


def require_nnunet() -> None:
    """BrokenEnvironmentError with what to type when nnU-Net is not installed."""
    if importlib.util.find_spec("nnunetv2") is None:
        raise BrokenEnvironmentError(
            'medclip_samv2_weak requires nnU-Net, which is missing; type `pip install "wordmask[nnunet]"`.'
        )

"""The image trunk shared by all methods: a ResNet of any width cut after stage 3 or 4, or a tower of CLIP."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from replication.errors import CheckpointError, ConfigError, nearest
from replication.method import ImageTrunk
from replication.network_config import TrunkConfig
from replication.networks.clip_trunk import clip_trunk
from replication.networks.key_maps import load_strictly, read_state

_LAYOUTS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


def build_trunk(config: TrunkConfig, image_size: int) -> ImageTrunk:
    """The trunk that a configuration names, its random weights drawn from torch's generator.

    Args:
        image_size: side of the images in pixels; a vision transformer accepts no others.

    Raises:
        ConfigError, CheckpointError: the weights cannot be had or do not fit.
    """
    if config.architecture.startswith("clip-"):
        return clip_trunk(config, image_size)
    return ResNetTrunk(config)


class ResNetTrunk(ImageTrunk):
    """A ResNet built from torchvision's blocks, with torchvision's parameter names.

    Width 64 is torchvision's network; another width multiplies every stage by ``width / 64``, which makes a
    truly thin network. Initialisation is torchvision's: He normal (fan out) for convolutions, one and zero
    for batch normalisation. Images are moved to channels-last memory, in which convolutions are fastest.

    Raises:
        ConfigError: the weights do not exist, cannot be downloaded, or belong to another width.
        CheckpointError: a local file does not hold exactly this network.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        block, depths = _LAYOUTS[config.architecture]
        width, self.last_stage = config.width, config.last_stage
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = [width]
        for stage in range(1, self.last_stage + 1):
            planes = width * 2 ** (stage - 1)
            layers = _stage(block, channels[-1], planes, depths[stage - 1], stride=1 if stage == 1 else 2)
            self.add_module(f"layer{stage}", layers)
            channels.append(planes * block.expansion)
        self.stage_channels = tuple(channels)
        self.channels = channels[-1]
        self.stride = 4 * 2 ** (self.last_stage - 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.weights = config.weights
        if config.weights != "random":
            _load_weights(self, config)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, C, H/stride, W/stride]``, in channels-last memory."""
        return self.stages(images)[-1]

    def stages(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> maps at H/2 (stem, before pooling), H/4, H/8, H/16 and, with stage 4, H/32."""
        x = images.contiguous(memory_format=torch.channels_last)
        maps = [torch.relu(self.bn1(self.conv1(x)))]
        x = nn.functional.max_pool2d(maps[0], kernel_size=3, stride=2, padding=1)
        for stage in range(1, self.last_stage + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, planes: int, depth: int, stride: int
) -> nn.Sequential:
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))
    first = block(inputs, planes, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, planes) for _ in range(depth - 1)))


def _load_weights(trunk: ResNetTrunk, config: TrunkConfig) -> None:
    """Weights by torchvision's name, or from a file with torchvision's keys (prefix ``module.`` allowed)."""
    path = Path(config.weights)
    if path.suffix in {".pth", ".pt", ".safetensors"} or path.is_file():
        state = read_state(path)
    else:
        state = _torchvision_state(config)
    unused = tuple(f"layer{stage}." for stage in range(trunk.last_stage + 1, 5))
    kept = {key: value for key, value in state.items() if not key.startswith(("fc.", *unused))}
    load_strictly(trunk, kept, {key: key for key in trunk.state_dict()}, where=config.weights)


def _torchvision_state(config: TrunkConfig) -> dict[str, Tensor]:
    known = get_model_weights(config.architecture)
    names = [entry.name for entry in known]
    if config.weights not in names:
        raise ConfigError(
            "Unknown weights of the image trunk.",
            where="trunk.weights",
            found=config.weights,
            allowed=f"random, a local .pth or .safetensors file, or one of {', '.join(names)}",
            remedy=nearest(config.weights, names),
        )
    if config.width != 64:
        raise ConfigError(
            "Torchvision's weights fit the network of width 64 only.",
            where="trunk.width",
            found=config.width,
            allowed=64,
            remedy="set trunk.weights to random, or trunk.width to 64",
        )
    try:
        state: dict[str, Tensor] = known[config.weights].get_state_dict(check_hash=True)
    except (urllib.error.URLError, OSError) as error:
        raise CheckpointError(
            "The weights of the image trunk cannot be downloaded.",
            where=known[config.weights].url,
            found=error,
            remedy="download the file where there is a network and give its path as trunk.weights",
        ) from error
    return state

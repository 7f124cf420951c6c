"""CLIP's image towers as trunks: modified ResNet and vision transformer, without their projections."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from replication.errors import CheckpointError, ConfigError
from replication.method import ImageTrunk
from replication.network_config import TrunkConfig
from replication.networks.clip_transformer import Transformer
from replication.networks.key_maps import load_strictly, read_state

OPENAI = {
    "clip-resnet50": "timm/resnet50_clip.openai",
    "clip-vit-b32": "timm/vit_base_patch32_clip_224.openai",
}
"""Hub repositories that hold OpenAI's weights under CLIP's own parameter names, as safetensors."""

HUB_FILE = "open_clip_model.safetensors"


class ClipTrunk(ImageTrunk):
    """An image tower of CLIP; parameter names are CLIP's without ``visual.``.

    Attributes:
        weights_file: the file of a whole CLIP that the weights came from, ``None`` if they are random. A
            method built on CLIP finds the rest of its weights there.
    """

    weights_file: Path | None = None


class ClipResNetTrunk(ClipTrunk):
    """CLIP's ModifiedResNet, cut after a stage.

    It differs from torchvision's in a stem of three convolutions, average pooling instead of maximum pooling,
    and strides that are average pools before a convolution. The last batch normalisation of every block
    starts at zero, as in CLIP; its attention pool is ``replication.networks.attention_pool.AttentionPool2d``.

    Args:
        width: channels of the first stage before expansion (64 in RN50). depths: blocks of each stage.
    """

    def __init__(self, width: int = 64, depths: tuple[int, ...] = (3, 4, 6, 3), last_stage: int = 4) -> None:
        super().__init__()
        self.last_stage = last_stage
        half = width // 2
        self.conv1 = nn.Conv2d(3, half, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, width, kernel_size=3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        channels = [width]
        for stage in range(1, last_stage + 1):
            planes = width * 2 ** (stage - 1)
            first = _Bottleneck(channels[-1], planes, stride=1 if stage == 1 else 2)
            others = (_Bottleneck(4 * planes, planes) for _ in range(depths[stage - 1] - 1))
            self.add_module(f"layer{stage}", nn.Sequential(first, *others))
            channels.append(4 * planes)
        self.stage_channels = tuple(channels)
        self.channels = channels[-1]
        self.stride = 4 * 2 ** (last_stage - 1)
        for module in self.modules():
            if isinstance(module, _Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, C, H/stride, W/stride]``."""
        return self.stages(images)[-1]

    def stages(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> maps at H/2 (stem, before pooling), H/4, H/8, H/16 and, with stage 4, H/32."""
        x = images.contiguous(memory_format=torch.channels_last)
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        maps = [torch.relu(self.bn3(self.conv3(x)))]
        x = nn.functional.avg_pool2d(maps[0], 2)
        for stage in range(1, self.last_stage + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps


class ClipVisionTransformerTrunk(ClipTrunk):
    """CLIP's vision transformer up to its last normalisation; the patch tokens are the feature map.

    Positions are learnt for one image size, and only images of that size are accepted.

    Args:
        image_size, patch: sides in pixels. Published: 224 and 32, width 768, 12 layers, 12 heads.
    """

    def __init__(
        self, *, image_size: int, patch: int = 32, width: int = 768, layers: int = 12, heads: int = 12
    ) -> None:
        super().__init__()
        self.image_size, self.grid = image_size, image_size // patch
        if self.grid < 1:
            raise ConfigError(
                "The image is smaller than a patch of the vision transformer.",
                found=f"{image_size} pixels",
                allowed=f"{patch} or more",
            )
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(self.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = nn.LayerNorm(width)
        self.channels, self.stride, self.stage_channels = width, patch, (width,)

    def tokens(self, images: Tensor) -> Tensor:
        """``[B, 3, S, S]`` -> ``[B, 1 + patches, C]``: the class token, then the patches row by row.

        Raises:
            ConfigError: images of another size.
        """
        if tuple(images.shape[-2:]) != (self.image_size, self.image_size):
            raise ConfigError(
                "The positions of the vision transformer belong to another image size.",
                found=tuple(images.shape[-2:]),
                allowed=(self.image_size, self.image_size),
            )
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        start = self.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        x = torch.cat([start, patches], dim=1) + self.positional_embedding
        answer: Tensor = self.ln_post(self.transformer(self.ln_pre(x)))
        return answer

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, S, S]`` -> ``[B, C, S/patch, S/patch]``."""
        patches = self.tokens(images)[:, 1:].transpose(1, 2)
        return patches.reshape(len(images), self.channels, self.grid, self.grid)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The one map there is."""
        return [self(images)]


def clip_trunk(config: TrunkConfig, image_size: int) -> ClipTrunk:
    """The tower that a configuration names, with its weights.

    Raises:
        ConfigError: the images are smaller than a patch.
        CheckpointError: the weights cannot be had, or are those of another network.
    """
    trunk: ClipTrunk
    if config.architecture == "clip-resnet50":
        trunk = ClipResNetTrunk(config.width, last_stage=config.last_stage)
    else:
        trunk = ClipVisionTransformerTrunk(image_size=image_size, width=12 * config.width)
    trunk.weights = config.weights
    if config.weights != "random":
        path = _openai(config.architecture) if config.weights == "OPENAI" else Path(config.weights)
        own = trunk.state_dict()
        state = {key.removeprefix("visual."): v for key, v in read_state(path).items() if _is_trunk(key, own)}
        load_strictly(trunk, state, {key: key for key in own}, where=path)
        trunk.weights_file = path
    return trunk


def _is_trunk(key: str, own: dict[str, Tensor]) -> bool:
    """Whether a key of a whole CLIP belongs to its image tower up to where the trunk ends."""
    name = key.removeprefix("visual.")
    if name == key or name == "proj" or name.startswith("attnpool."):
        return False
    return name in own or not name.startswith("layer4.")


def _openai(architecture: str) -> Path:
    from huggingface_hub import hf_hub_download

    repository = OPENAI[architecture]
    try:
        return Path(hf_hub_download(repository, HUB_FILE))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "OpenAI's weights of CLIP cannot be downloaded.",
            where=f"{repository}/{HUB_FILE}",
            found=str(error).splitlines()[0],
            remedy="download the file where there is a network and give its path as trunk.weights",
        ) from error


class _Bottleneck(nn.Module):
    """Three convolutions; a stride is an average pool before the third and before the short cut's."""

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inputs != 4 * planes:
            layers: dict[str, nn.Module] = {
                "-1": nn.AvgPool2d(stride),
                "0": nn.Conv2d(inputs, 4 * planes, 1, bias=False),
                "1": nn.BatchNorm2d(4 * planes),
            }
            self.downsample = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        if self.stride > 1:
            y = nn.functional.avg_pool2d(y, self.stride)
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

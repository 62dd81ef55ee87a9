"""MobileSAM: an image and prompts (boxes, points) in, a mask for each prompt out.

The network of Segment Anything (Kirillov et al., ICCV 2023) with the image encoder of MobileSAM (Zhang et al., 2023): a
TinyViT (Wu et al., ECCV 2022). Module names are those of the published checkpoint (Apache-2.0), which loads as it is.
Only what one mask for a box and points needs: no mask prompts, no three-fold answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdc_model.checkpoint import CheckpointError

STRIDE = 4  # of the mask logits
_CELL = 16  # of the image embedding, in pixels of the encoder's input
_EMBEDDING = 256
_MASK_TOKENS = 4  # the first is the answer to prompts that leave no doubt
_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_STD = np.array([58.395, 57.12, 57.375], np.float32)
# The published network saw 1024 x 1024 px. Places are coded as shares of that whatever the picture's size here, so that
# neighbouring cells stay as far apart as it learnt.
_CODED_SIDE = 1024.0


@dataclass(frozen=True)
class Embedding:
    """A picture as the decoder sees it.

    features: float32 (1, 256, h, w), a cell per 16 px of the scaled picture, padded right and below to whole cells.
    scale:    scaled pixels per source pixel.
    source_hw: of the picture.
    """

    features: Tensor
    scale: float
    source_hw: tuple[int, int]

    def to_source(self, logits: np.ndarray) -> np.ndarray:
        """A mask's logits (4 h, 4 w) at the source's pixels: float32 (H, W), linear between them."""
        height, width = self.source_hw
        x = ((np.arange(width, dtype=np.float32) + 0.5) * self.scale / STRIDE - 0.5)[None].repeat(height, 0)
        y = ((np.arange(height, dtype=np.float32) + 0.5) * self.scale / STRIDE - 0.5)[:, None].repeat(width, 1)
        return cv2.remap(np.ascontiguousarray(logits), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def from_source(self, mask: np.ndarray) -> np.ndarray:
        """A mask (H, W) at the logits' places: float32 (4 h, 4 w), the share of each that it covers."""
        rows, cols = (side * _CELL // STRIDE for side in self.features.shape[2:])
        down, across = (_overlap(n, side, STRIDE / self.scale) for n, side in zip((rows, cols), self.source_hw))
        return down @ mask.astype(np.float32) @ across.T


def _overlap(cells: int, pixels: int, width: float) -> np.ndarray:
    """The share of each cell, `width` pixels wide, that lies on each pixel: float32 (cells, pixels)."""
    left, pixel = np.arange(cells)[:, None] * width, np.arange(pixels)
    shared = np.minimum(left + width, pixel + 1) - np.maximum(left, pixel)
    return (np.maximum(shared, 0) / width).astype(np.float32)


class _ConvNorm(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int, size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        conv = nn.Conv2d(channels_in, channels_out, size, stride, size // 2, groups=groups, bias=False)
        self.add_module("c", conv)
        self.add_module("bn", nn.BatchNorm2d(channels_out))


class _ChannelNorm(nn.Module):
    """A layer norm over the channels of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


class _Mix(nn.Module):
    """Three convolutions, the middle one by channel: MBConv where a map stays, patch merging where it shrinks."""

    def __init__(self, channels_in: int, hidden: int, channels_out: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(channels_in, hidden, 1)
        self.conv2 = _ConvNorm(hidden, hidden, 3, stride, groups=hidden)
        self.conv3 = _ConvNorm(hidden, channels_out, 1)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return F.gelu(x + out) if self.residual else out


class _WindowAttention(nn.Module):
    """Self-attention within windows, with a learned bias for each distance (rows and columns apart)."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        row, col = np.divmod(np.arange(window * window), window)
        apart = abs(row[:, None] - row) * window + abs(col[:, None] - col)
        self.apart: Tensor
        self.register_buffer("apart", torch.from_numpy(apart), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same."""
        batch, height, width, channels = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, cols = x.shape[1] // side, x.shape[2] // side
        x = x.view(batch, rows, side, cols, side, channels).transpose(2, 3).reshape(-1, side * side, channels)
        qkv = self.qkv(self.norm(x)).view(len(x), side * side, self.heads, -1).transpose(1, 2)
        query, key, value = qkv.chunk(3, dim=3)
        bias = self.attention_biases[:, self.apart].to(qkv.dtype)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = self.proj(x.transpose(1, 2).reshape(-1, side * side, channels))
        x = x.view(batch, rows, cols, side, side, channels).transpose(2, 3)
        return x.reshape(batch, rows * side, cols * side, channels)[:, :height, :width]


class _Mlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class _TinyViTBlock(nn.Module):
    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = _WindowAttention(channels, heads, window)
        self.local_conv = _ConvNorm(channels, channels, 3, groups=channels)
        self.mlp = _Mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.local_conv(x).permute(0, 2, 3, 1)
        return (x + self.mlp(x)).permute(0, 3, 1, 2)


class _Layer(nn.Module):
    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """TinyViT-5M up to stride 16, and the neck to 256 channels: (B, 3, 16 h, 16 w) -> (B, 256, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict(
            {"seq": nn.Sequential(_ConvNorm(3, 32, 3, 2), nn.GELU(), _ConvNorm(32, 64, 3, 2))}
        )
        convolutions: list[nn.Module] = [_Mix(64, 256, 64, 1, residual=True) for _ in range(2)]
        layers = [_Layer(convolutions, _Mix(64, 128, 128, 2, residual=False))]
        # channels, heads, window, depth, next channels, stride
        for channels, heads, window, depth, out, stride in (
            (128, 4, 7, 2, 160, 2), (160, 5, 14, 6, 320, 1), (320, 10, 7, 2, 0, 1),
        ):  # fmt: skip
            blocks: list[nn.Module] = [_TinyViTBlock(channels, heads, window) for _ in range(depth)]
            layers.append(_Layer(blocks, _Mix(channels, out, out, stride, residual=False) if out else None))
        self.layers = nn.ModuleList(layers)
        self.neck = nn.Sequential(
            nn.Conv2d(320, _EMBEDDING, 1, bias=False),
            _ChannelNorm(_EMBEDDING),
            nn.Conv2d(_EMBEDDING, _EMBEDDING, 3, padding=1, bias=False),
            _ChannelNorm(_EMBEDDING),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed["seq"](images)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)


class _Places(nn.Module):
    """Random Fourier features of places (Tancik et al., NeurIPS 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.positional_encoding_gaussian_matrix: Tensor
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, _EMBEDDING // 2))

    def forward(self, xy: Tensor) -> Tensor:
        """Pixels of the encoder's input, edges at 0 (..., 2) -> (..., 256)."""
        angle = 2 * math.pi * ((2 * xy / _CODED_SIDE - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angle.sin(), angle.cos()], -1)


class PromptEncoder(nn.Module):
    """Boxes and points -> tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = _Places()
        # Points outside, points inside, a box's first and second corner.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, _EMBEDDING) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, _EMBEDDING)
        self.no_mask_embed = nn.Embedding(1, _EMBEDDING)

    def forward(self, boxes: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        """Pixels of the encoder's input, edges at 0: boxes (N, 4) as x0 y0 x1 y1, points (N, P, 2) with labels (N, P):
        1 inside the mask, 0 outside, -1 none. -> (N, P + 2, 256)."""
        kinds = torch.cat([e.weight for e in (self.not_a_point_embed, *self.point_embeddings)])
        inside = self.pe_layer(points) * (labels >= 0)[..., None] + kinds[labels + 1]
        return torch.cat([inside, self.pe_layer(boxes.view(-1, 2, 2)) + kinds[3:]], 1)

    def grid(self, shape_hw: tuple[int, int]) -> Tensor:
        """The places of an embedding's cells: (1, 256, h, w)."""
        device = self.no_mask_embed.weight.device
        y, x = (torch.arange(side, device=device) + 0.5 for side in shape_hw)
        xy = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1) * _CELL
        return self.pe_layer(xy).permute(2, 0, 1)[None]


class _Attention(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(_EMBEDDING, inner)
        self.k_proj = nn.Linear(_EMBEDDING, inner)
        self.v_proj = nn.Linear(_EMBEDDING, inner)
        self.out_proj = nn.Linear(inner, _EMBEDDING)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.view(len(x), x.shape[1], 8, -1).transpose(1, 2)

        q, k, v = heads(self.q_proj(q)), heads(self.k_proj(k)), heads(self.v_proj(v))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _TwoWayBlock(nn.Module):
    """Tokens look at each other and at the image, and the image at them."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = _Attention(_EMBEDDING)
        self.cross_attn_token_to_image = _Attention(_EMBEDDING // 2)
        self.cross_attn_image_to_token = _Attention(_EMBEDDING // 2)
        self.mlp = nn.ModuleDict({"lin1": nn.Linear(_EMBEDDING, 2048), "lin2": nn.Linear(2048, _EMBEDDING)})
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(_EMBEDDING) for _ in range(4))

    def forward(self, tokens: Tensor, image: Tensor, token_code: Tensor, image_code: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + token_code
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        seen = self.cross_attn_token_to_image(tokens + token_code, image + image_code, image)
        tokens = self.norm2(tokens + seen)
        tokens = self.norm3(tokens + self.mlp["lin2"](F.relu(self.mlp["lin1"](tokens))))
        asked = self.cross_attn_image_to_token(image + image_code, tokens + token_code, tokens)
        return tokens, self.norm4(image + asked)


class _Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_TwoWayBlock(first=n == 0) for n in range(2))
        self.final_attn_token_to_image = _Attention(_EMBEDDING // 2)
        self.norm_final_attn = nn.LayerNorm(_EMBEDDING)

    def forward(self, image: Tensor, image_code: Tensor, token_code: Tensor) -> tuple[Tensor, Tensor]:
        tokens = token_code
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_code, image_code)
        seen = self.final_attn_token_to_image(tokens + token_code, image + image_code, image)
        return self.norm_final_attn(tokens + seen), image


class _Head(nn.Module):
    def __init__(self, out: int) -> None:
        super().__init__()
        sizes = (_EMBEDDING, _EMBEDDING, _EMBEDDING, out)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """An embedding and N prompts' tokens -> a mask for each, and the IoU to be expected of it."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = _Transformer()
        self.iou_token = nn.Embedding(1, _EMBEDDING)
        self.mask_tokens = nn.Embedding(_MASK_TOKENS, _EMBEDDING)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(_EMBEDDING, 64, 2, 2),
            _ChannelNorm(64),
            nn.GELU(),
            nn.ConvTranspose2d(64, 32, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(_Head(32) for _ in range(_MASK_TOKENS))
        self.iou_prediction_head = _Head(_MASK_TOKENS)

    def forward(self, features: Tensor, code: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """features (1 or N, 256, h, w), code (1, 256, h, w), prompts (N, P, 256) -> logits (N, 4 h, 4 w), IoU (N,)."""
        count, (height, width) = len(prompts), features.shape[2:]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(count, -1, -1), prompts], 1)
        image = features.flatten(2).transpose(1, 2).expand(count, -1, -1)
        tokens, image = self.transformer(image, code.flatten(2).transpose(1, 2), tokens)
        upscaled = self.output_upscaling(image.transpose(1, 2).reshape(count, -1, height, width))
        kernel = self.output_hypernetworks_mlps[0](tokens[:, 1])
        return torch.einsum("nc,nchw->nhw", kernel, upscaled), self.iou_prediction_head(tokens[:, 0])[:, 0]


def first_line(error: Exception) -> str:
    """What torch says of a broken file, without its advice."""
    return str(error).partition("\n")[0]


class MobileSam(nn.Module):
    """Encoder and decoder. The published weights see pictures of 1024 px; smaller ones (multiples of 16) work too."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = TinyViT()
        self.prompt_encoder = PromptEncoder()
        self.mask_decoder = MaskDecoder()

    @classmethod
    def load(cls, path: Path) -> MobileSam:
        """The published checkpoint (`mobile_sam.pt`). Raises FileNotFoundError, CheckpointError."""
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint at {path}")
        network = cls()
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            missing, _ = network.load_state_dict(weights, strict=False)
        except Exception as error:  # torch raises many kinds for a file that is none
            raise CheckpointError(f"{path} is not MobileSAM's checkpoint: {first_line(error)}") from error
        if missing:
            raise CheckpointError(f"{path} is not MobileSAM's checkpoint: it lacks {', '.join(missing[:3])}")
        return network.eval()

    @torch.inference_mode()
    def encode(self, image: np.ndarray, long_side: int) -> Embedding:
        """A picture, RGB uint8 (H, W, 3), scaled to a long side in pixels."""
        source_hw = (image.shape[0], image.shape[1])
        scale = long_side / max(source_hw)
        height, width = (max(1, round(side * scale)) for side in source_hw)
        method = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
        scaled = (cv2.resize(image, (width, height), interpolation=method) - _MEAN) / _STD
        # An even number of cells, as the encoder's strides of 8 px need.
        padded = np.pad(scaled, ((0, -height % (2 * _CELL)), (0, -width % (2 * _CELL)), (0, 0)))
        features = self.image_encoder(torch.from_numpy(padded.transpose(2, 0, 1)[None].copy()))
        return Embedding(features.float(), scale, source_hw)

    def forward(
        self, embedding: Embedding, boxes: Tensor, points: Tensor, labels: Tensor, kinds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Prompts in source pixels (see `PromptEncoder`; pixel centres at 0.5) -> logits (N, 4 h, 4 w), IoU (N,).

        kinds: added to the points' tokens, (N, P, 256).
        """
        prompts = self.prompt_encoder(boxes * embedding.scale, points * embedding.scale, labels)
        if kinds is not None:
            prompts = prompts + F.pad(kinds, (0, 0, 0, 2))
        features = embedding.features + self.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        shape_hw = (features.shape[2], features.shape[3])
        return self.mask_decoder(features, self.prompt_encoder.grid(shape_hw), prompts)

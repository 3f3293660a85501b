"""A packed set of photos on the accelerator, and random crops of a whole batch at once there.

With it an epoch moves nothing but numbers over the bus and needs no process that reads images.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image

REACH = {Image.Resampling.BILINEAR: 1.0, Image.Resampling.BICUBIC: 2.0}  # of each filter, in px of the result


class Resident:
    """Photos of any size, uint8 (rows, columns, 3) each, one after the other in the memory of `device`.

    count: photos; size_bytes: of all together. Raises torch.OutOfMemoryError when they do not fit.
    """

    def __init__(self, photos: Iterable[np.ndarray], count: int, size_bytes: int, device: torch.device):
        self.pixels = torch.empty(size_bytes // 3, 3, dtype=torch.uint8, device=device)
        sizes = torch.empty(count, 2, dtype=torch.long)
        starts = torch.empty(count, dtype=torch.long)
        at = 0
        for i, photo in enumerate(photos):
            rows, columns = photo.shape[:2]
            self.pixels[at : at + rows * columns] = torch.from_numpy(photo).view(-1, 3).to(device)
            sizes[i], starts[i] = torch.tensor([rows, columns]), at
            at += rows * columns
        self.sizes, self.starts = sizes.to(device), starts.to(device)

    def crops(
        self, indices: torch.Tensor, boxes: torch.Tensor, canvas: tuple[int, int], px: int, resample: int
    ) -> torch.Tensor:
        """Parts of photos, resized, antialiased: uint8 (B, 3, px, px), within a level of `transforms.crop`.

        indices: (B,). boxes: int (B, 4), left, top, right, bottom of each part in px. canvas: rows and columns of the
        largest photo of the batch. A resized picture is a matrix product from either side, which accelerators do best.
        """
        rows, columns = canvas
        sizes = self.sizes[indices]
        y = torch.arange(rows, device=indices.device)
        x = torch.arange(columns, device=indices.device)
        # beyond its own edge a photo repeats its last row and column, which no weight looks at
        down = torch.minimum(y, sizes[:, :1] - 1) * sizes[:, 1:] + self.starts[indices, None]
        across = torch.minimum(x, sizes[:, 1:] - 1)
        at = (down[:, :, None] + across[:, None]).flatten()
        photos = self.pixels.index_select(0, at).view(len(indices), rows, columns * 3)
        kind = torch.float16 if indices.device.type != "cpu" else torch.float32
        reach = REACH[Image.Resampling(resample)]
        over = weights(boxes[:, 1], boxes[:, 3], rows, px, reach).to(kind)
        beside = weights(boxes[:, 0], boxes[:, 2], columns, px, reach).to(kind)
        short = torch.bmm(over, photos.to(kind)).view(len(indices), px, columns, 3)
        result = torch.matmul(short.permute(0, 3, 1, 2), beside.transpose(1, 2)[:, None])
        return result.round_().clamp_(0, 255).to(torch.uint8)


def weights(low: torch.Tensor, high: torch.Tensor, count: int, px: int, reach: float) -> torch.Tensor:
    """What each of `count` source px adds to each of `px` result px, float32 (B, px, count); rows sum to 1.

    low, high: (B,), the part of the source that is seen, in px. reach: 1 for a triangle, 2 for Keys' cubic (a = -0.5),
    both stretched where the part is made smaller, as Pillow and torch do.
    """
    scale = ((high - low) / px).view(-1, 1, 1)
    stretch = scale.clamp(min=1.0)
    middles = low.view(-1, 1, 1) + (torch.arange(px, device=low.device).view(1, -1, 1) + 0.5) * scale
    source = torch.arange(count, device=low.device).view(1, 1, -1)
    distance = ((source + 0.5 - middles) / stretch).abs()
    if reach == 1:
        found = (1 - distance).clamp(min=0)
    else:
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        found = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    seen = (source >= low.view(-1, 1, 1)) & (source < high.view(-1, 1, 1))
    found = found * seen
    return found / found.sum(-1, keepdim=True)

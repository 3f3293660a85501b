"""How training images are varied, and what that does to a batch on the device; `random_params` has the random
numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from PIL import Image
from torchvision.transforms import v2

from imgcls.config.model_options import AugmentOptions
from imgcls.errors import OptionError


@dataclass(frozen=True)
class AugmentationPlan:
    """How training images are varied; ranges from which each image draws its own values."""

    crop_share: tuple[float, float] | None = None  # area of the random crop; None: the processor's own pixels
    flip: str = "none"  # "none", "horizontal" or "both"
    degrees: float = 0.0  # half of the images are rotated, by up to so much either way
    colour: float = 0.0  # brightness, contrast and saturation are multiplied by 1 - colour to 1 + colour
    erase: float = 0.0  # probability that a rectangle is erased
    policy: v2.Transform | None = None  # for uint8 (3, px, px) on the host, drawing from torch's generator

    @property
    def draws_colour_or_shape(self) -> bool:
        return bool(self.degrees or self.colour or self.erase)


# Crop shares: 0.08 (Inception's, the common default) cuts away the object in sets of hundreds of photos;
# 0.35 was best there with the pretrained MobileNetV3-Small.
PLANS = {
    "none": AugmentationPlan(),
    "light": AugmentationPlan(crop_share=(0.6, 1.0)),
    "standard": AugmentationPlan(crop_share=(0.35, 1.0), degrees=10, colour=0.1),
    "heavy": AugmentationPlan(crop_share=(0.2, 1.0), degrees=20, colour=0.4, erase=0.25),
}
LUMA = (0.299, 0.587, 0.114)  # gray of red, green and blue: ITU-R BT.601, as Pillow's "L"
PARAMS_PER_IMAGE = 10  # of an image: mirror left-right, upside down, degrees, three colour factors, erased box in 0..1


def make_augmentation_plan(options: AugmentOptions) -> AugmentationPlan:
    """The plan that the options name. Raises OptionError for a policy without crops: it works on the cropped pixels."""
    plan = replace(PLANS[options.augment], flip=options.flip)
    if options.erase is not None:
        plan = replace(plan, erase=options.erase)
    policy = v2.TrivialAugmentWide() if options.trivialaugment else v2.RandAugment() if options.randaugment else None
    if policy is not None and plan.crop_share is None:
        raise OptionError("Expected --trivialaugment or --randaugment with --augment light or more, got none.")
    return replace(plan, policy=policy)


def make_batch_mixing(mixup: float, cutmix: float) -> v2.Transform | None:
    """What blends a batch's images and class shares: MixUp (Zhang et al. 2018), CutMix (Yun et al. 2019), or by turns.

    None when both are 0. Draws come from torch's generator, which a checkpoint keeps.
    """
    chosen = [kind(alpha=alpha) for kind, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if alpha > 0]
    return v2.RandomChoice(chosen) if chosen else None


class DeviceAugmentation:
    """What happens to a training batch on the device: rotate, colour, normalise, erase; it comes mirrored.

    The normalisation (out = in * scale + shift, a channel) is read off the processor itself, by showing it plain
    black and plain white pictures, because image_mean and image_std do not tell it for every checkpoint.
    """

    def __init__(
        self, processor, plan: AugmentationPlan, px: int, layout: torch.memory_format = torch.contiguous_format
    ):
        self.plan, self.layout = plan, layout
        black, white = (
            processor(images=Image.new("RGB", (px, px), (v, v, v)), return_tensors="pt")["pixel_values"][0]
            for v in (0, 255)
        )
        middle = px // 2
        self.shift = black[:, middle, middle].view(3, 1, 1)
        self.scale = (white[:, middle, middle].view(3, 1, 1) - self.shift) / 255

    def __call__(self, pixels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Returns float32 (B, 3, H, W), normalised, in the memory layout.

        pixels: (B, 3, H, W), uint8, or floats: 0..255 with crops, without them what the processor gives. draws:
        (B, DRAWS).
        """
        is_normalised = pixels.dtype != torch.uint8 and self.plan.crop_share is None
        kind = torch.float32 if pixels.dtype == torch.uint8 else pixels.dtype
        x = _rotated(pixels, draws[:, 2], kind) if self.plan.degrees else pixels.to(kind)
        if not is_normalised:
            shift, scale = self._on(x)
            if self.plan.colour:
                x = _colour(x, *draws[:, 3:6].to(x.dtype).T, shift, scale)
            else:
                x = torch.addcmul(shift, x, scale)
        x = _erase(x, draws[:, 6:10]) if self.plan.erase else x
        return x.to(torch.float32, memory_format=self.layout)

    def _on(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shift and scale where x is; copied once, since each copy would wait for the accelerator."""
        if self.shift.device != x.device or self.shift.dtype != x.dtype:
            self.shift, self.scale = self.shift.to(x), self.scale.to(x)
        return self.shift, self.scale


def _rotated(x: torch.Tensor, degrees: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Images of a floating kind, those rotated for which degrees other than 0 were drawn.

    A CPU rotates only these, an image a thread at a time, which then lies in its cache: a whole batch takes twice as
    long. An accelerator would have to tell the host which they are, and so rotates all and picks.
    """
    if x.device.type != "cpu":
        x = x.to(kind)
        return torch.where((degrees != 0).view(-1, 1, 1, 1), _rotate(x, degrees), x)
    result = x.to(kind, copy=True)
    for some in degrees.nonzero()[:, 0].split(torch.get_num_threads()):
        result[some] = _rotate(x.index_select(0, some).to(kind), degrees[some])
    return result


def _rotate(x: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Rotate each image about its centre, borders mirrored so that no black corner gives the angle away."""
    rows, columns = (((torch.arange(n, device=x.device) + 0.5) * 2 / n - 1) for n in x.shape[2:])
    angle = torch.deg2rad(degrees).view(-1, 1, 1)
    # a product in the complex plane: a twentieth of the time of affine_grid
    places = torch.complex(*torch.broadcast_tensors(columns, rows[:, None])) * torch.complex(angle.cos(), angle.sin())
    grid = torch.view_as_real(places).to(x.dtype)
    return torch.nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _colour(x: torch.Tensor, brightness, contrast, saturation, shift, scale) -> torch.Tensor:
    """Scale brightness, contrast about the mean gray, and saturation about each pixel's gray, and normalise.

    All are linear in a pixel's colours, so together they are a matrix and an offset an image: a tenth of the time of
    one after the other. x: 0..255. brightness, contrast, saturation: (B,). shift, scale: (3, 1, 1), the normalisation.
    """
    light = brightness * contrast
    if x.device.type != "cpu":  # products with matrices this small are slow there
        red, green, blue = x.unbind(1)
        gray = torch.add(LUMA[0] * red, green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
        offset = (1 - contrast) * brightness * gray.mean((1, 2))
        rest = torch.addcmul(offset.view(-1, 1, 1), gray, (light * (1 - saturation)).view(-1, 1, 1))
        x = torch.addcmul(rest[:, None], x, (light * saturation).view(-1, 1, 1, 1)).clamp_(0, 255)
        return torch.addcmul(shift, x, scale)
    weights = torch.tensor(LUMA)
    saturated = saturation.view(-1, 1, 1) * torch.eye(3)
    saturated = saturated + (1 - saturation).view(-1, 1, 1) * weights  # its rows still sum to 1: gray stays
    offset = ((1 - contrast) * brightness * (x.mean((2, 3)) @ weights)).view(-1, 1, 1)
    shift, scale = shift.flatten(1), scale.flatten(1)
    x = torch.baddbmm(shift + scale * offset, light.view(-1, 1, 1) * scale * saturated, x.flatten(2)).view_as(x)
    for channel, low, high in zip(x.unbind(1), shift, shift + 255 * scale, strict=True):
        channel.clamp_(low.item(), high.item())
    return x


def _erase(x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Set a rectangle of each image to 0, the mean colour of what the network was trained on."""
    h = (torch.arange(x.shape[2], device=x.device) + 0.5) / x.shape[2]
    w = (torch.arange(x.shape[3], device=x.device) + 0.5) / x.shape[3]
    left, top, right, bottom = (boxes[:, i, None] for i in range(4))
    inside_w, inside_h = (w > left) & (w < right), (h > top) & (h < bottom)
    return x.masked_fill((inside_h[:, :, None] & inside_w[:, None, :])[:, None], 0.0)

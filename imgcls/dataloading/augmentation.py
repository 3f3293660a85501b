"""How training images are augmented: the plan, and what is done to a batch on the device.

`random_params` computes the parameters of each image, `crops` and `image_datasets` crop and flip on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torchvision.transforms import v2

from imgcls.config.model_options import AugmentOptions
from imgcls.dataloading.processor_spec import ProcessorSpec
from imgcls.errors import OptionError


@dataclass(frozen=True)
class AugmentationPlan:
    """How training images are augmented; the ranges from which the parameters of each image are drawn."""

    crop_area: tuple[float, float] | None = None  # fraction of the area; None: the processor's own pixels, not cropped
    flip: str = "none"  # "none", "horizontal" or "both"
    degrees: float = 0.0  # half of the images are rotated, by up to this angle either way
    colour: float = 0.0  # brightness, contrast and saturation are multiplied by 1 - colour to 1 + colour
    erase: float = 0.0  # probability that a rectangle is erased
    policy: v2.Transform | None = None  # for uint8 (3, px, px) on the CPU, with torch's random generator


# Crop areas: 0.08 (Inception's, the common default) cuts away the object in sets of hundreds of photos;
# 0.35 was best there with the pretrained MobileNetV3-Small.
PLANS = {
    "none": AugmentationPlan(),
    "light": AugmentationPlan(crop_area=(0.6, 1.0)),
    "standard": AugmentationPlan(crop_area=(0.35, 1.0), degrees=10, colour=0.1),
    "heavy": AugmentationPlan(crop_area=(0.2, 1.0), degrees=20, colour=0.4, erase=0.25),
}
LUMA = (0.299, 0.587, 0.114)  # gray of red, green and blue: ITU-R BT.601, as Pillow's "L"


class ParamColumns(NamedTuple):
    """Columns of augmentation parameters, (B, PARAMS_PER_IMAGE)."""

    flips: slice = slice(0, 2)  # other than 0 where mirrored left-right, upside down
    degrees: int = 2  # of the rotation
    colour: slice = slice(3, 6)  # factors of brightness, contrast and saturation
    erased_box: slice = slice(6, 10)  # left, top, right, bottom in 0..1; all 0 where nothing is erased


PARAM_COLUMNS = ParamColumns()
PARAMS_PER_IMAGE = 10


def make_augmentation_plan(options: AugmentOptions) -> AugmentationPlan:
    """The plan that the options name. Raises OptionError for a policy without crops: it works on the cropped pixels."""
    plan = replace(PLANS[options.augment or "none"], flip=options.flip or "none")
    if options.erase is not None:
        plan = replace(plan, erase=options.erase)
    policy = v2.TrivialAugmentWide() if options.trivialaugment else v2.RandAugment() if options.randaugment else None
    if policy is not None and plan.crop_area is None:
        raise OptionError("Expected --trivialaugment or --randaugment with --augment light or more, got none.")
    return replace(plan, policy=policy)


def make_batch_mixing(mixup: float, cutmix: float) -> v2.Transform | None:
    """The transform that blends the images and soft labels of a batch: MixUp, CutMix, or either at random.

    MixUp: Zhang et al. 2018, CutMix: Yun et al. 2019. None when both are 0. Random numbers are those of torch's
    generator, whose state a checkpoint saves.
    """
    transforms = [kind(alpha=alpha) for kind, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if alpha > 0]
    return v2.RandomChoice(transforms) if transforms else None


class DeviceAugmentation:
    """The device-side half of augmentation: rotate, colour, normalise and erase a batch that is already flipped.

    layout: the memory format of the result.
    """

    def __init__(
        self,
        spec: ProcessorSpec,
        plan: AugmentationPlan,
        layout: torch.memory_format = torch.contiguous_format,
    ):
        self.plan, self.layout = plan, layout
        self.is_bgr = spec.is_bgr
        self.shift, self.scale = spec.shift, spec.scale
        if self.is_bgr:  # pixels are red, green and blue until they are normalised
            self.shift, self.scale = self.shift.flip(0), self.scale.flip(0)

    def __call__(self, pixels: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        """Returns float32 (B, 3, H, W), normalised.

        pixels: (B, 3, H, W), uint8, or floats: 0..255 with crops, without them what the processor gives. params:
        (B, PARAMS_PER_IMAGE).
        """
        is_normalised = pixels.dtype != torch.uint8 and self.plan.crop_area is None
        dtype = torch.float32 if pixels.dtype == torch.uint8 else pixels.dtype
        degrees = params[:, PARAM_COLUMNS.degrees]
        x = _rotate_nonzero(pixels, degrees, dtype) if self.plan.degrees else pixels.to(dtype)
        if not is_normalised:
            shift, scale = self._normalisation(x)
            if self.plan.colour:
                x = _jitter_colour(x, params[:, PARAM_COLUMNS.colour].to(x.dtype), shift, scale)
            else:
                x = torch.addcmul(shift, x, scale)
            x = x.flip(1) if self.is_bgr else x
        if self.plan.erase:
            x = _erase(x, params[:, PARAM_COLUMNS.erased_box])
        return x.to(torch.float32, memory_format=self.layout)

    def _normalisation(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shift and scale on the device of x; copied once, since each copy would wait for the accelerator."""
        if self.shift.device != x.device or self.shift.dtype != x.dtype:
            self.shift, self.scale = self.shift.to(x), self.scale.to(x)
        return self.shift, self.scale


def _rotate_nonzero(x: torch.Tensor, degrees: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Images in a floating dtype, those rotated whose degrees are not 0.

    A CPU rotates only these, one image per thread at a time, which then stays in its cache: a whole batch takes twice
    as long. An accelerator would have to tell the CPU which they are, so it rotates all and selects.
    """
    if x.device.type != "cpu":
        x = x.to(dtype)
        return torch.where((degrees != 0).view(-1, 1, 1, 1), _rotate(x, degrees), x)
    result = x.to(dtype, copy=True)
    for indices in degrees.nonzero()[:, 0].split(torch.get_num_threads()):
        result[indices] = _rotate(x.index_select(0, indices).to(dtype), degrees[indices])
    return result


def _rotate(x: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Rotate each image about its centre, borders mirrored so that no black corner gives the angle away."""
    rows, columns = (((torch.arange(n, device=x.device) + 0.5) * 2 / n - 1) for n in x.shape[2:])
    angle = torch.deg2rad(degrees).view(-1, 1, 1)
    # a product in the complex plane: a twentieth of the time of affine_grid
    rotation = torch.complex(angle.cos(), angle.sin())
    grid = torch.view_as_real(torch.complex(*torch.broadcast_tensors(columns, rows[:, None])) * rotation).to(x.dtype)
    return torch.nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _jitter_colour(x: torch.Tensor, factors: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Scale brightness, contrast about the mean gray, and saturation about each pixel's gray, and normalise.

    All are linear in a pixel's colours, so together they are a matrix and an offset per image: a tenth of the time of
    one after the other. x: 0..255. factors: (B, 3). shift, scale: (3, 1, 1), the normalisation.
    """
    brightness, contrast, saturation = factors.T
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
        channel.clamp_(low.item(), high.item())  # to the normalised 0..255
    return x


def _erase(x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Set a rectangle of each image to 0, the mean colour of what the network was pretrained on."""
    h = (torch.arange(x.shape[2], device=x.device) + 0.5) / x.shape[2]
    w = (torch.arange(x.shape[3], device=x.device) + 0.5) / x.shape[3]
    left, top, right, bottom = (boxes[:, i, None] for i in range(4))
    inside_w, inside_h = (w > left) & (w < right), (h > top) & (h < bottom)
    return x.masked_fill((inside_h[:, :, None] & inside_w[:, None, :])[:, None], 0.0)

"""Heat maps laid over images, of known networks and of other transformers from the Hub."""

import pytest
import tiny
import transformers

from imgcls.models import classifier, source
from imgcls.report import heatmaps

JPEG_IN_BASE64 = "/9j/"


def test_heatmap_pictures_are_jpegs_in_base64(tmp_path, shapes):
    model = classifier.build_classifier(source.resolve_model(str(tiny.write("resnet-18", tmp_path))), ["a", "b"])
    file = next(shapes.rglob("*.jpg"))
    (encoded,) = heatmaps.heatmap_pictures(model.network, model.processor, [str(file)], [1])
    assert encoded.startswith(JPEG_IN_BASE64)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("SwinForImageClassification", "SwinConfig"),
        ("MobileViTForImageClassification", "MobileViTConfig"),
        ("LevitForImageClassification", "LevitConfig"),
        ("PvtV2ForImageClassification", "PvtV2Config"),
    ],
)
def test_heatmap_pictures_of_other_transformers_are_jpegs_or_none(shapes, architecture, config):
    network = getattr(transformers, architecture)(getattr(transformers, config)(num_labels=3)).eval()
    processor = transformers.ViTImageProcessor(size={"height": 224, "width": 224})
    pictures = heatmaps.heatmap_pictures(network, processor, [str(next(shapes.rglob("*.jpg")))], [1])
    has_windowed_attention = architecture.startswith("Swin")
    assert pictures is None or (not has_windowed_attention and pictures[0].startswith(JPEG_IN_BASE64))

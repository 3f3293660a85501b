"""The license that a model inherits from its checkpoint."""

from __future__ import annotations

import logging

from huggingface_hub import model_info

from imgcls.models import registry
from imgcls.storage import run_folder
from imgcls.system import network

log = logging.getLogger(__name__)

TIMEOUT_S = 10
_KNOWN = {checkpoint.hub_id: checkpoint.license for checkpoint in registry.CHECKPOINTS.values()}


def known_license(base_model: str | None) -> str | None:
    """License of a checkpoint of the registry; None for others. Makes no request."""
    return _KNOWN.get(base_model) if base_model else None


def find_license(run: run_folder.RunFolder) -> str | None:
    """License of the checkpoint that a run was trained from: from the registry, else from the Hub, else None."""
    base_model = (run.read_json(run_folder.METRICS) or {}).get("sources", {}).get("base_model")
    license = known_license(base_model)
    if base_model is None or license:
        return license
    try:
        card = network.call_with_timeout(TIMEOUT_S, lambda: model_info(base_model)).card_data
    except Exception as error:  # the client's errors have no common class
        log.warning("card: the license of %s is unknown (%s); set it with --license", base_model, type(error).__name__)
        return None
    return card.get("license") if card else None

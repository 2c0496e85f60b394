"""Upstream's loaders import torchvision, which here may not fit torch."""

from __future__ import annotations

import importlib.util

from adapters.shared.torchvision import import_torchvision

if importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"):
    import_torchvision()

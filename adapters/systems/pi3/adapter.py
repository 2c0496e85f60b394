"""Pi3: points of each view in its own camera, and its pose, in no view's frame (Wang et al., 2025)."""

from __future__ import annotations

from typing import Any

from adapters.shared.pi3 import Pi3Adapter


class Adapter(Pi3Adapter):
    def build(self, config: dict[str, Any] | None) -> Any:
        from pi3.models.pi3 import Pi3

        return Pi3()

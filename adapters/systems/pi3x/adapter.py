"""Pi3X: Pi3 with convolutional heads and a metric scale (yyfz/Pi3, December 2025), given images alone."""

from __future__ import annotations

from typing import Any, ClassVar

from adapters.shared.pi3 import Pi3Adapter


class Adapter(Pi3Adapter):
    scale: ClassVar[str] = "metric"

    def build(self, config: dict[str, Any] | None) -> Any:
        from pi3.models.pi3x import Pi3X

        return Pi3X()

    def load(self, device: str, weights: str, seed: int) -> None:
        """The whole checkpoint, then without the encoders of cameras and depth, as upstream's example does without
        either: they take no memory on the device."""
        super().load("cpu", weights, seed)
        self.network.disable_multimodal(free_cuda_cache=False)
        self.network, self.device = self.network.to(device), device

"""Registration of a predicted cloud to the true one."""

from metrics.register.icp import icp
from metrics.register.stages import Registration, Stage

__all__ = ["Registration", "Stage", "icp"]

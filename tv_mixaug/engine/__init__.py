"""The engine: plans, sampling, kernels and the application of plans to tensors.

It knows no labels, no containers and no torchvision. It imports ``_validation`` alone.
"""

from tv_mixaug.engine.apply import apply_plan
from tv_mixaug.engine.plan import CompactPlan, Plan, box_volumes, identity_plan, make_plan

__all__ = ["CompactPlan", "Plan", "apply_plan", "box_volumes", "identity_plan", "make_plan"]

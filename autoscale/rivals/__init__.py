"""Autoscalers that others published, for the simulator to compare ours with.

Each is a planner of its own, with its own state, and follows the rule of its source as it stands
there, with its published defaults. None of them is used in service.
"""

from autoscale.rivals.course import CourseRule
from autoscale.rivals.ec2 import StepScaling, TargetTracking
from autoscale.rivals.knative import KnativePodAutoscaler
from autoscale.rivals.kubernetes import HorizontalPodAutoscaler

__all__ = [
    "CourseRule",
    "HorizontalPodAutoscaler",
    "KnativePodAutoscaler",
    "StepScaling",
    "TargetTracking",
]

"""KD: knowledge distillation, by regression onto the ends of the teacher's trajectories."""

from scm.methods import GuidedBlock, Method, Parts, StudentSettings, Trained
from scm.methods._trajectories import TrajectorySettings, trajectory_distillation


class KdBlock(GuidedBlock):
    """The section `student.kd`."""

    trajectories: TrajectorySettings


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    return trajectory_distillation("kd", settings, parts), None


METHOD = Method("KD", KdBlock, objective, by_tangent=False)

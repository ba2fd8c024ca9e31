"""Losses on logits in one pass: value and gradient are made together, tile by tile, and the gradient is written once.

`joint` adds up the parts of a loss (hard labels, soft targets at a temperature) that read the same student logits.  The
plain formulas of `limbeck.losses` are its twins; tests compare the two.
"""

from limbeck.losses.fused.linear import fused_linear_kd, joint_of_head
from limbeck.losses.fused.one_pass import Backend, in_one_pass, joint
from limbeck.losses.fused.parts import Hard, Part, Soft

__all__ = ["Backend", "Hard", "Part", "Soft", "fused_linear_kd", "in_one_pass", "joint", "joint_of_head"]

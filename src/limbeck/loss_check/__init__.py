"""Checking a distillation loss of one's own: what is wrong with it, in words and with the measured numbers."""

from limbeck.loss_check.checking import check_loss
from limbeck.loss_check.findings import Finding, LossReport, Measured

__all__ = ["Finding", "LossReport", "Measured", "check_loss"]

"""Diagnosis: why a distillation helps or fails, on one's own teacher, student and data."""

from limbeck.diagnosis.advice import Advice, advise
from limbeck.diagnosis.attribution import Attribution, Effect, attribute
from limbeck.diagnosis.blocks import Blocks, blocks, found_blocks
from limbeck.diagnosis.capacity import Capacity, Fit, judge_capacity
from limbeck.diagnosis.causes import Finding, find_causes
from limbeck.diagnosis.confidence import Confidence, confidence, entropy
from limbeck.diagnosis.diagnosing import Diagnosis, diagnose
from limbeck.diagnosis.inputs import DiagnosisInput
from limbeck.diagnosis.proposition import nearness_order
from limbeck.diagnosis.relations import OtherClasses, class_correlation, other_classes, seconded, seconded_classes
from limbeck.diagnosis.rescaling import rescaling_factor
from limbeck.diagnosis.signs import Signs, read_signs
from limbeck.diagnosis.thresholds import THRESHOLDS, Thresholds

__all__ = [
    "THRESHOLDS",
    "Advice",
    "Attribution",
    "Blocks",
    "Capacity",
    "Confidence",
    "Diagnosis",
    "DiagnosisInput",
    "Effect",
    "Finding",
    "Fit",
    "OtherClasses",
    "Signs",
    "Thresholds",
    "advise",
    "attribute",
    "blocks",
    "class_correlation",
    "confidence",
    "diagnose",
    "entropy",
    "find_causes",
    "found_blocks",
    "judge_capacity",
    "nearness_order",
    "other_classes",
    "read_signs",
    "rescaling_factor",
    "seconded",
    "seconded_classes",
]

"""Batches: what the fields of a user's batch are.

This folder imports engine.
"""

from tv_mixaug.batch.spec import FIELD_RULES, FieldRule, FieldSpec, PairedLabels, ParsedBatch, Role

__all__ = ["FIELD_RULES", "FieldRule", "FieldSpec", "PairedLabels", "ParsedBatch", "Role"]

"""Sequence-level distillation: a corpus whose training targets are a teacher's translations."""

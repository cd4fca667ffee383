"""Comparing methods: sweeps, frontiers, figures and the report page."""

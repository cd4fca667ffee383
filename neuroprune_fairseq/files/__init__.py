"""Files: checkpoints, results, run logs, and how a wrong one ends a run."""

"""All that lives in fairseq: tasks, criterions, resuming, workers, precision."""

"""The method: penalties, redundancy, pruning, importance, sparsity; pure, without fairseq."""

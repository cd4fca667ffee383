"""The pruning methods: who has seen one has seen all."""

"""``neuroprune-frontier``: a method's settings searched, compared and drawn (Figure 6)."""

"""``neuroprune-report``: what pruning did to models, as one page to look at."""

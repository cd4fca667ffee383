"""Really smaller models: cut out of a fairseq Transformer what is zero, save it, load it again.

``compact(model)`` returns a smaller model and leaves the given one as it is.
"""

from neuroprune_fairseq.compact.cutting import compact, shapes

__all__ = ["compact", "shapes"]

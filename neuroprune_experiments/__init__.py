"""Comparing methods: sweeps, frontiers, figures and the report page."""

from importlib.util import find_spec

from neuroprune_fairseq.files.errors import refuse


def require(*names: str) -> None:
    """Refuse to go on without some packages of the extra ``experiments``."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        refuse(
            f"{', '.join(missing)} is not installed: pip install 'neuroprune_fairseq[experiments]'"
        )

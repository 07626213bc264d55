import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

import llm_numba  # noqa: E402
from llm_numba.models import load_config, resolve_model  # noqa: E402

project = "llm_numba"
author = "The llm_numba developers"
copyright = f"2026, {author}"
version = release = llm_numba.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    # Ours, in docs/_ext.
    "bench_records",
    "beside",
    "claims",
    "cli_reference",
    "comm_plot",
    "compatibility",
    "engine_tables",
    "error_index",
    "figure_directive",
    "gemm_tables",
    "kernel_timings",
    "labs_tables",
    "ladders",
    "machine_pages",
    "mathml",
    "microscope_output",
    "parity_table",
    "pipeline_timeline",
    "plan_tables",
    "profile_pages",
    "questions",
    "rank_tables",
    "recall_table",
    "simulator_tables",
    "source_role",
    "split_table",
    "stations",
    "sweep_plot",
    "variable_tables",
]
exclude_patterns = ["_build", "_generated", "results"]

myst_enable_extensions = [
    "attrs_block", "colon_fence", "deflist", "dollarmath", "substitution",
]  # fmt: skip
myst_heading_anchors = 3

# The sizes of the bundled model, for prose and tables: {{ E }}.
_config = load_config(resolve_model("storyteller"))
myst_substitutions = {
    "L": _config.num_layers,
    "E": _config.hidden_size,
    "H": _config.num_heads,
    "G": _config.num_kv_heads,
    "D": _config.head_dim,
    "F": _config.intermediate_size,
    "V": f"{_config.vocab_size:,}",
    "context": f"{_config.max_position_embeddings:,}",
    "kv_bytes": f"{2 * _config.num_layers * _config.num_kv_heads * _config.head_dim * 4:,}",
}

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Dashes stay as they are typed: --json is an option.
smartquotes_action = "qe"

# The browser draws formulas itself: nothing is fetched, and nothing is bundled.
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "llm_numba"
html_favicon = "_static/favicon.svg"  # without one, each browser asks in vain and says so
# The style sheet of drawings is the package's: its reports have drawings, too.
html_static_path = ["_static", "../llm_numba/bench/drawing.css"]
html_css_files = ["drawing.css", "llm_numba.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# The tutorials run while the site is built; one that has not changed keeps what it printed.
sphinx_gallery_conf = {
    "examples_dirs": [str(DOCS.parent / "tutorials")],
    "gallery_dirs": ["tutorials"],
    "filename_pattern": r"/\d\d_\w+\.py",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "image_scrapers": ["gallery.scrape"],
    "capture_repr": (),
    "show_signature": False,
    # How long this machine took says nothing about the reader's.
    "min_reported_time": float("inf"),
    "write_computation_times": False,
    "remove_config_comments": True,
}

copybutton_exclude = ".linenos, .gp, .go"

"""``{src}`llm_numba.engine.core.Engine.step```: a link to the lines of a function or class.

It leads to the source pages of ``sphinx.ext.viewcode``, which has an anchor for whatever the API
pages document. A target without an anchor is a warning, and so fails the build.
"""

from importlib.util import find_spec
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import ReferenceRole

logger = logging.getLogger(__name__)


def split_target(target: str) -> tuple[str, str]:
    """Split ``package.module.Class.method`` into the module and the name inside it."""
    module, names = target, []
    while "." in module:
        try:
            found = find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found:
            break
        module, _, name = module.rpartition(".")
        names.insert(0, name)
    return module, ".".join(names)


def source_address(env: BuildEnvironment, target: str, line: int) -> str:
    """Return a target's address from the page that is being read; it is checked at the end."""
    module, name = split_target(target)
    env.metadata[env.docname].setdefault("source_links", []).append((module, name, line))
    up = "../" * env.docname.count("/")
    return f"{up}_modules/{module.replace('.', '/')}.html" + (f"#{name}" if name else "")


class SourceRole(ReferenceRole):
    """The role; ``text <target>`` gives the link another text."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Make the link and remember it for the check at the end."""
        module, name = split_target(self.target)
        text = self.title if self.has_explicit_title else name or module
        link = nodes.reference(
            "",
            "",
            nodes.literal(text, text),
            refuri=source_address(self.env, self.target, self.lineno),
            internal=True,
            classes=["source-link"],
        )
        return [link], []


def check_targets(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of links to lines that viewcode will not give an anchor."""
    pages: dict[str, Any] = getattr(env, "_viewcode_modules", {})
    for docname, metadata in env.metadata.items():
        for module, name, line in metadata.get("source_links", []):
            documented = pages[module][2] if pages.get(module) else {}
            if not documented or (name and name not in documented):
                logger.warning(
                    "source link to %s.%s, which no API page documents",
                    module,
                    name,
                    location=(docname, line),
                )


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role."""
    app.add_role("src", SourceRole())
    app.connect("env-check-consistency", check_targets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

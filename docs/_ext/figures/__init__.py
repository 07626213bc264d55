"""The drawings of the site, by page."""

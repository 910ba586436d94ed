"""Check all internal links of a built site: `python docs/check_links.py docs/_build/html`."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors and links of one page."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids = {""}
        self.links = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        self.links += [attrs[key] for key in ("href", "src") if attrs.get(key)]


def broken_links(root: Path):
    """Yield (page, link) for every link to a file or anchor that does not exist."""
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            found = target.exists()
            if target in pages:
                found = unquote(url.fragment) in pages[target].ids
            if not found:
                yield path.relative_to(root.resolve()), link
    print(f"Checked {sum(len(p.links) for p in pages.values())} links on {len(pages)} pages.")


if __name__ == "__main__":
    bad = list(broken_links(Path(sys.argv[1])))
    for page, link in bad:
        print(f"{page}: {link} does not exist")
    sys.exit(bool(bad))

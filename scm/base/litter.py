"""What operating systems and storage boxes leave behind in folders of images: no source reads it."""

LITTER = frozenset(
    {
        "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "@recycle", "@recently-snapshot", "#recycle",
        "#snapshot", "~snapshot", "$recycle.bin", "recycler", "system volume information", "lost+found", "lost.dir",
        "found.000", "network trash folder", "temporary items", "__pycache__",
    }
)  # fmt: skip
"""Files and folders that operating systems and storage boxes leave behind, in small letters."""


def is_litter(name: str) -> bool:
    """True for a hidden file or folder, an editor's copy, what systems leave behind, and for all inside of these."""
    return any(part.startswith(".") or part.endswith("~") or part.casefold() in LITTER for part in name.split("/"))

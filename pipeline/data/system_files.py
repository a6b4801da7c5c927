"""Names of folders and files that systems, storage devices and programs keep beside photographs.

Thumbnails, recycle bins, old versions and caches hold copies of images that nobody wants to learn
from. Each group says what its members are.
"""

from __future__ import annotations

import re
from collections.abc import Collection

THUMBNAILS = "thumbnails and metadata"
BIN = "recycle bin"
VERSIONS = "old versions"
CACHE = "cache"
SYSTEM = "files of the system"
SOFTWARE = "files of a program"
VIRTUAL_ENVIRONMENT = "pyvenv.cfg"  # the file that is in every virtual environment of Python

# In lower case: systems and devices do not distinguish case. Other hidden folders are skipped, too.
FOLDERS_BY_CONTENT = {
    THUMBNAILS: """
        @eadir .@__thumb .@__comments .thumbnails .thumbs .sh_thumbnails .xvpics .comments .wdmc
        .picasaoriginals .appledouble __macosx @__thumb
    """,
    BIN: """
        #recycle @recycle .recycle .@recycle $recycle.bin .trash .trashes .dtrash lost.dir
        #trash @trash
    """,
    VERSIONS: """
        .snapshot .snapshots #snapshot #snapshots @snapshot @snapshots ~snapshot
        @recently-snapshot .zfs .stversions .sync .mobilebackups backups.backupdb
    """,
    CACHE: """
        .cache __pycache__ .ipynb_checkpoints .mypy_cache .pytest_cache .ruff_cache @tmp .tmp
        .tmp.drivedownload .tmp.driveupload .dropbox.cache .@upload_cache .temporaryitems
    """,
    SYSTEM: """
        .spotlight-v100 .fseventsd .documentrevisions-v100 .vol .appledb .appledesktop @sharebin
        @database @appstore @s2s @docker @appdata @appconf .synologyworkingdirectory @cloudsync
        @synoresource @synologydrive .@qsys .@plugins $windows.~bt $windows.~ws $winreagent
        $sysreset $extend msocache .android_secure @quarantine
    """,
    SOFTWARE: """
        .git .svn .hg .bzr .dvc node_modules site-packages .venv .tox .nox .idea .vscode .stfolder
        .dropbox .config .local _vti_cnf _vti_pvt _gsdata_
    """,
}
# Words that could also be the name of a class count only as the systems write them.
EXACT_FOLDERS = {
    "lost+found": SYSTEM, "System Volume Information": SYSTEM, "Config.Msi": SYSTEM,
    "WPSystem": SYSTEM, "TheVolumeSettingsFolder": SYSTEM, "Network Trash Folder": BIN,
    "Network Recycle Bin": BIN, "Network Recycle Bin 1": BIN, "RECYCLER": BIN, "RECYCLED": BIN,
    "Recycled": BIN, "Recycle Bin": BIN, "trashbox": BIN, "files_trashbin": BIN,
    "files_versions": VERSIONS,
}  # fmt: skip
FOLDERS = {
    **{name: what for what, names in FOLDERS_BY_CONTENT.items() for name in names.split()},
    **{name.lower(): what for name, what in EXACT_FOLDERS.items() if " " in name or "+" in name},
}
FOLDER_PATTERNS = (
    (re.compile(r"\.trash-.*", re.IGNORECASE), BIN),  # .Trash-1000 of user 1000
    (re.compile(r"found\.\d{3}", re.IGNORECASE), SYSTEM),  # what chkdsk recovers
    (re.compile(r"appdata_[a-z0-9]{8,}", re.IGNORECASE), CACHE),  # previews of Nextcloud
    (re.compile(r".*\.lrdata", re.IGNORECASE), THUMBNAILS),  # previews of Lightroom
)
LIBRARY = re.compile(r".*\.(aplibrary|photolibrary|photoslibrary|migratedphotolibrary)", re.I)
LIBRARY_PHOTOS = ("originals", "masters")  # all else in a library of Photos is derived from them

FILE_LIST = """
    .ds_store thumbs.db thumbs.db:encryptable ehthumbs.db ehthumbs_vista.db desktop.ini
    .directory .nomedia .picasa.ini picasa.ini zbthumbnail.info .localized .apdisk
    .volumeicon.icns .com.apple.timemachine.donotpresent .metadata_never_index .stignore
    .gitkeep .gitignore .gitattributes .keep .hidden .bridgecache .bridgecachet .bridgesort
    .dropbox .dropbox.attr sync.ffs_db autorun.inf
"""
FILES = frozenset(FILE_LIST.split()) | {"icon\r"}
FILE_PATTERN = re.compile(r"\._.*|\.trashed-.*|\.pending-.*|\.syncthing\..*|~\$.*", re.IGNORECASE)
# Covers of albums, which Windows Media Player writes.
ALBUM_ART = re.compile(r"albumart(small|_\{[0-9a-f-]+\}_(small|large))\.jpg", re.IGNORECASE)
# What Syncthing, Dropbox, Nextcloud and others write where two devices changed a file.
CONFLICT = re.compile(
    r"(.+?)(\.sync-conflict-\d{8}-\d{6}(-\w+)?| \([^()]*conflicted copy[^()]*\))(\.\w+)?",
    re.IGNORECASE,
)
BACKUP_ENDINGS = ("_original", "_exiftool_tmp", "~", ".bak", ".backup", ".orig", ".old")


def describe_system_folder(name: str, parent: str = "") -> str:
    """Return what a folder of a system or program holds; empty where it is a folder of the user.

    Args:
        name: The name of the folder.
        parent: The name of the folder around it.

    Examples:
        >>> describe_system_folder("@eaDir")
        'thumbnails and metadata'
        >>> describe_system_folder("cats")
        ''
    """
    if LIBRARY.fullmatch(parent) and name.lower() not in LIBRARY_PHOTOS:
        return THUMBNAILS
    known = EXACT_FOLDERS.get(name) or FOLDERS.get(name.lower())
    if known:
        return known
    return next((what for pattern, what in FOLDER_PATTERNS if pattern.fullmatch(name)), "")


def is_system_file(name: str) -> bool:
    """Return whether a file of this name is kept by a system or program, and is no photograph."""
    return name.lower() in FILES or FILE_PATTERN.fullmatch(name) is not None


def is_album_art(name: str, beside: Collection[str]) -> bool:
    """Return whether an image is the cover of an album that Windows Media Player wrote.

    Args:
        name: The name of the image.
        beside: All names in its folder: `Folder.jpg` is a cover beside `AlbumArtSmall.jpg` only.
    """
    is_cover = name.lower() == "folder.jpg" and any(map(ALBUM_ART.fullmatch, beside))
    return is_cover or ALBUM_ART.fullmatch(name) is not None


def original_of_backup(name: str) -> str:
    """Return the name of the file that a file is the backup copy of; empty where it is none.

    Args:
        name: The name of the file, of a copy that a program keeps where two versions conflict, too.

    Examples:
        >>> original_of_backup("a.jpg_original")
        'a.jpg'
        >>> original_of_backup("a.sync-conflict-20240101-120000-ABCDEFG.jpg")
        'a.jpg'
    """
    if match := CONFLICT.fullmatch(name):
        return match[1] + (match[4] or "")
    lower = name.lower()
    ending = next((ending for ending in BACKUP_ENDINGS if lower.endswith(ending)), "")
    return name[: -len(ending)] if ending else ""

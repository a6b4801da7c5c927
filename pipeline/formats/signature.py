"""What a file is by its first bytes: an image, or a video, an archive, a web page, a camera raw.

The ending of a name says little: phones, browsers and converters write JPEG files named `.heic`,
`.jpg_large` or without an ending, and web pages named `.jpg`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pipeline.formats import stored

HEAD_BYTES = 4096

HEIF_REMEDY = "pip install 'label2box[heif]' reads them"
AVIF_REMEDY = "pip install 'pillow>=11.3' reads them"
CONVERT_REMEDY = "convert them to JPEG or PNG"
RAW_REMEDY = "export them as JPEG or TIFF with a raw converter, such as darktable or RawTherapee"
VIDEO_REMEDY = "extract frames as images, as with ffmpeg"
DOCUMENT_REMEDY = "export their pages as images"
ARCHIVE_REMEDY = "unpack them"
DOWNLOAD_REMEDY = "download the images themselves again"


@dataclass(frozen=True)
class FileType:
    """What a file is.

    Attributes:
        name: Singular, as in "HEIC image".
        remedy: What makes its images usable, as in "convert them to JPEG or PNG"; may be empty.
        is_image: Whether Pillow reads it, as far as the first bytes tell.
    """

    name: str
    remedy: str = ""
    is_image: bool = False

    @property
    def is_readable(self) -> bool:
        """Whether it can be read here: by Pillow, or by what an extra has installed."""
        if self == HEIC:
            return find_spec("pillow_heif") is not None
        if self == AVIF:
            return _pillow_reads_avif()
        return self.is_image


def _image(name: str) -> FileType:
    return FileType(f"{name} image", is_image=True)


def _raw(name: str) -> FileType:
    return FileType(f"{name} camera raw", RAW_REMEDY)


def _video(name: str) -> FileType:
    return FileType(f"{name} video", VIDEO_REMEDY)


def _archive(name: str) -> FileType:
    return FileType(f"{name} archive", ARCHIVE_REMEDY)


def _other_image(name: str) -> FileType:
    return FileType(f"{name} image", CONVERT_REMEDY)


HEIC = FileType("HEIC image", HEIF_REMEDY)
AVIF = FileType("AVIF image", AVIF_REMEDY)
TIFF = _image("TIFF")
JPEG_XL = _other_image("JPEG XL")
HTML = FileType("HTML page", DOWNLOAD_REMEDY)
SVG = _other_image("SVG")
XML = FileType("XML file")
TEXT = FileType("text file")
ZEROS = FileType("file of zero bytes only", DOWNLOAD_REMEDY)
UNFINISHED = FileType("unfinished download", "complete the download")
THUMBNAIL = FileType("camera thumbnail", "the full image or video lies beside it")
PLACEHOLDER = FileType("cloud placeholder", "let the cloud service download the files")

SIGNATURES: tuple[tuple[int, bytes, FileType], ...] = (
    (0, b"\xff\xd8\xff", _image("JPEG")),
    (0, b"\x89PNG\r\n\x1a\n", _image("PNG")),
    (0, b"GIF87a", _image("GIF")),
    (0, b"GIF89a", _image("GIF")),
    (8, b"CR\x02", _raw("CR2")),
    (8, b"IIII", _raw("IIQ")),
    (0, b"IIRO", _raw("ORF")),
    (0, b"IIRS", _raw("ORF")),
    (0, b"MMOR", _raw("ORF")),
    (0, b"IIU\x00", _raw("RW2")),
    (6, b"HEAPCCDR", _raw("CRW")),
    (0, b"FUJIFILMCCD-RAW", _raw("RAF")),
    (0, b"FOVb", _raw("X3F")),
    (0, b"\x00MRM", _raw("MRW")),
    (0, b"II*\x00", TIFF),
    (0, b"MM\x00*", TIFF),
    (0, b"II+\x00", TIFF),
    (0, b"MM\x00+", TIFF),
    (0, b"P5\n", _image("PNM")),
    (0, b"P6\n", _image("PNM")),
    (0, b"8BPS", _image("Photoshop")),
    (0, b"\x00\x00\x00\x0cjP  ", _image("JPEG 2000")),
    (0, b"\xff\x4f\xff\x51", _image("JPEG 2000")),
    (0, b"\x00\x00\x00\x0cJXL ", JPEG_XL),
    (0, b"\xff\x0a", JPEG_XL),
    (0, b"qoif", _image("QOI")),
    (0, b"DDS ", _image("DDS")),
    (0, b"icns", _image("ICNS")),
    (0, b"\x00\x00\x01\x00", _image("icon")),
    (0, b"gimp xcf", _other_image("GIMP")),
    (0, b"v/1\x01", _other_image("OpenEXR")),
    (0, b"#?RADIANCE", _other_image("Radiance HDR")),
    (0, b"BPG\xfb", _other_image("BPG")),
    (0, b"FLIF", _other_image("FLIF")),
    (0, b"II\xbc\x01", _other_image("JPEG XR")),
    (0, b"%!PS", _other_image("PostScript")),
    (0, b"\xc5\xd0\xd3\xc6", _other_image("PostScript")),
    (0, b"AT&TFORM", FileType("DjVu document", DOCUMENT_REMEDY)),
    (128, b"DICM", FileType("DICOM file", "convert them to PNG or TIFF, as with dcm2pnm")),
    (0, b"SIMPLE  =", FileType("FITS file", "convert them to TIFF")),
    (344, b"n+1\x00", FileType("NIfTI volume", "write its slices as PNG or TIFF")),
    (0, b"\x89HDF", FileType("HDF5 file", "write its arrays as PNG or TIFF")),
    (0, b"\x93NUMPY", FileType("NumPy array", "write its arrays as PNG or TIFF")),
    (0, b"%PDF", FileType("PDF document", DOCUMENT_REMEDY)),
    (0, b"PK\x03\x04", _archive("zip")),
    (0, b"PK\x05\x06", _archive("zip")),
    (0, b"7z\xbc\xaf\x27\x1c", _archive("7z")),
    (0, b"Rar!\x1a\x07", _archive("rar")),
    (0, b"\x1f\x8b", _archive("gzip")),
    (0, b"BZh", _archive("bzip2")),
    (0, b"\xfd7zXZ\x00", _archive("xz")),
    (0, b"\x28\xb5\x2f\xfd", _archive("zstd")),
    (257, b"ustar", _archive("tar")),
    (0, b"\x1a\x45\xdf\xa3", _video("Matroska or WebM")),
    (0, b"\x00\x00\x01\xba", _video("MPEG")),
    (0, b"\x00\x00\x01\xb3", _video("MPEG")),
    (0, b"FLV\x01", _video("FLV")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _video("WMV")),
    (0, b"\x00\x05\x16\x07", FileType("macOS attribute file")),
    (0, b"L\x00\x00\x00\x01\x14\x02\x00", FileType("Windows shortcut", "copy the files")),
    (0, b"book\x00\x00\x00\x00mark", FileType("macOS alias", "copy the files")),
    (0, b"version https://git-lfs", FileType("Git LFS pointer", "git lfs pull downloads them")),
    (0, b"/annex/objects/", FileType("git-annex pointer", "git annex get downloads them")),
)  # fmt: skip

# TIFF files by content, whose first image is a small preview.
RAW_ENDING_LIST = """
    3fr ari arw bay cap cr2 cr3 crw dcr dcs dng drf eip erf fff gpr iiq k25 kdc mdc mef mos mrw
    nef nrw orf pef ptx pxn r3d raf raw rw2 rwl rwz sr2 srf srw x3f
"""
RAW_ENDINGS = frozenset(RAW_ENDING_LIST.split())
DNG_TAGS = (50706, 33421)  # DNGVersion; CFARepeatPatternDim of a sensor's mosaic
# Told by the name: their content is that of an image.
ENDING_TYPES = {
    "crdownload": UNFINISHED, "download": UNFINISHED, "opdownload": UNFINISHED, "part": UNFINISHED,
    "partial": UNFINISHED, "filepart": UNFINISHED, "!ut": UNFINISHED,
    "icloud": PLACEHOLDER, "cloud": PLACEHOLDER, "cloudf": PLACEHOLDER,
    "lrv": _video("GoPro preview"), "thm": THUMBNAIL,
    "svg": SVG, "svgz": SVG,
}  # fmt: skip

# Where the content is no known type: damaged files, and formats without first bytes of their own.
ENDINGS_BY_TYPE: dict[FileType, str] = {
    HEIC: "heic heics heif heifs hif avci",
    AVIF: "avif avifs",
    JPEG_XL: "jxl",
    _video("MP4"): "mp4 m4v 3gp 3g2 insv 360",
    _video("QuickTime"): "mov qt",
    _video("AVI"): "avi",
    _video("Matroska or WebM"): "mkv webm",
    _video("MPEG"): "mpg mpeg mpe m2v vob mts m2ts ts mod",
    _video("WMV"): "wmv asf",
    _video("FLV"): "flv f4v",
    _video("Ogg"): "ogv",
    _archive("zip"): "zip",
    _archive("tar"): "tar tgz tbz2 txz",
    _archive("gzip"): "gz",
    _archive("rar"): "rar",
    _archive("7z"): "7z",
    _archive("disk image"): "iso dmg img",
    FileType("PDF document", DOCUMENT_REMEDY): "pdf",
    _other_image("PostScript"): "eps epsf ps ai",
    _other_image("Windows metafile"): "wmf emf",
    _other_image("OpenEXR"): "exr",
    _other_image("Radiance HDR"): "hdr",
    _other_image("GIMP"): "xcf",
    _other_image("JPEG XR"): "jxr wdp hdp",
    _other_image("Photoshop"): "psb",
    _other_image("Krita"): "kra",
    _other_image("Affinity"): "afphoto afdesign",
    FileType("DICOM file", "convert them to PNG or TIFF, as with dcm2pnm"): "dcm dicom",
    **{_raw(ending.upper()): ending for ending in sorted(RAW_ENDINGS)},
}
TYPE_OF_ENDING = {
    ending: file_type
    for file_type, endings in ENDINGS_BY_TYPE.items()
    for ending in endings.split()
}

HEIC_BRANDS = frozenset(
    b"heic heix heim heis hevc hevx hevm hevs heif mif1 msf1 mif2 miaf jpgs jpeg avci".split()
)
AVIF_BRANDS = frozenset((b"avif", b"avis"))


def identify(path: Path | str) -> FileType | None:
    """Return what a file is by its content, and by its ending where the content leaves it open.

    Args:
        path: The file, of which the first kilobytes are read.

    Returns:
        The type of file; None where the content is no known type.

    Raises:
        OSError: The file cannot be read.
    """
    ending = os.path.splitext(path)[1].lower().lstrip(".")
    if ending in ENDING_TYPES:
        return ENDING_TYPES[ending]
    with stored.open_file(path) as file:
        head = file.read(HEAD_BYTES)
    file_type = identify_bytes(head, ending)
    if file_type is None or file_type == ZEROS:
        return TYPE_OF_ENDING.get(ending, file_type)
    return file_type


def identify_bytes(head: bytes, ending: str = "") -> FileType | None:
    """Return what a file is, by its first bytes.

    Args:
        head: The first bytes; HEAD_BYTES of them are enough.
        ending: The ending of the name, lower case and without a dot. Many camera raws are TIFF
            files by their content.

    Examples:
        >>> identify_bytes(b"GIF89a...").name
        'GIF image'
    """
    if head[4:8] == b"ftyp":
        return _identify_brands(head)
    if head[:4] == b"RIFF":
        riff = {b"WEBP": _image("WebP"), b"AVI ": _video("AVI")}
        return riff.get(head[8:12])
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return _image("BMP")
    for start, magic, file_type in SIGNATURES:
        if head.startswith(magic, start):
            if file_type is TIFF and (ending in RAW_ENDINGS or _has_raw_tags(head)):
                return _raw(ending.upper() if ending in RAW_ENDINGS else "DNG")
            return file_type
    if head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G":
        return _video("MPEG transport stream")
    if head[4:8] in (b"moov", b"mdat", b"wide") and head[:2] == b"\x00\x00":
        return _video("QuickTime")
    return _identify_text(head)


def _identify_brands(head: bytes) -> FileType:
    """Return what a file of the family of MP4 is, by the brands that it lists."""
    length = min(int.from_bytes(head[:4], "big"), len(head), 256)
    main = head[8:12]
    brands = {main, *(head[n : n + 4] for n in range(16, length - 3, 4))}
    if main == b"crx ":
        return _raw("CR3")
    if main in AVIF_BRANDS or (main in HEIC_BRANDS and brands & AVIF_BRANDS):
        return AVIF
    if main in HEIC_BRANDS:
        return HEIC
    return _video("QuickTime" if main == b"qt  " else "MP4")


def _has_raw_tags(head: bytes) -> bool:
    """Return whether the first directory of a TIFF file, if it is in the head, is of a raw."""
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"

    def number(start: int, length: int) -> int:
        return int.from_bytes(head[start : start + length], order)

    first = number(4, 4)
    tags = [number(first + 2 + 12 * n, 2) for n in range(min(number(first, 2), 100))]
    return any(tag in DNG_TAGS for tag in tags)


def _identify_text(head: bytes) -> FileType | None:
    """Return the kind of text that a file is; None where it is no text."""
    if head and not head.strip(b"\x00"):
        return ZEROS
    if not head.strip() or b"\x00" in head:
        return None
    try:
        # The last character may be cut.
        text = (
            head[:-4].decode("utf-8-sig") if len(head) == HEAD_BYTES else head.decode("utf-8-sig")
        )
    except UnicodeDecodeError:
        return None
    text = text.lstrip().lower()
    if text.startswith(("<!doctype html", "<html", "<head", "<body", "<script")):
        return HTML
    if text.startswith(("<svg", "<?xml", "<!--", "<!doctype svg")):
        return SVG if "<svg" in text else HTML if "<html" in text else XML
    return TEXT if all(c.isprintable() or c in "\t\n\r\f" for c in text) else None


def _pillow_reads_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))

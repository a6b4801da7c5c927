"""Annotations in the XML of PASCAL VOC, which ILSVRC, Oxford-IIIT Pet and Stanford Dogs use.

    <annotation>
      <size><width>500</width><height>333</height><depth>3</depth></size>
      <object><name>n01440764</name><difficult>0</difficult>
        <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>500</xmax><ymax>333</ymax></bndbox></object>
    </annotation>

VOC counts pixels from 1, ILSVRC from 0. The last pixel belongs to the box in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from xml.etree import ElementTree

from pipeline.formats.coco_boxes import Box
from pipeline.formats.coco_values import parse_number
from pipeline.formats.odd_records import BadRecord
from pipeline.types import Size

CORNERS = ("xmin", "ymin", "xmax", "ymax")
MAX_SHOWN = 80  # letters of an object that messages show
MAX_BYTES = 10_000_000  # of a file: an annotation has some kilobytes


@dataclass(frozen=True)
class VocObject:
    """An object of an image.

    Attributes:
        name: Its class.
        box: Half-open xyxy in pixels, as in the file, not clipped.
        is_difficult: Whether the file marks it as difficult.
    """

    name: str
    box: Box
    is_difficult: bool = False


@dataclass(frozen=True)
class VocImage:
    """The annotation of an image.

    Attributes:
        size: (height, width) of the image; None where the file has none.
        objects: Its objects.
        faults: What is wrong with further objects, which are left out, one a text.
        faulty: The class and the four numbers of each of these, as they are written.
    """

    size: Size | None
    objects: Sequence[VocObject]
    faults: Sequence[str]
    faulty: Sequence[str] = ()


def read_voc(path: Path, first_pixel: int = 1) -> VocImage:
    """Read the annotation of an image.

    Args:
        path: The XML file.
        first_pixel: The number of the first pixel: 1 as in VOC, 0 as in ILSVRC.

    Raises:
        BadRecord: The file cannot be read or is no XML.
        FileNotFoundError: There is none.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadRecord(f"larger than {MAX_BYTES} bytes, so no annotation of an image")
        text = path.read_bytes()
        if b"<!ENTITY" in text:
            raise BadRecord("with entities, which no annotation needs: not read")
        root = ElementTree.fromstring(text)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadRecord(f"that cannot be read ({error.strerror})") from None
    except ElementTree.ParseError as error:
        line, column = error.position
        raise BadRecord(f"not XML from line {line}, column {column} on") from None
    except (ValueError, LookupError) as error:  # an unknown encoding
        raise BadRecord(f"not XML that can be read ({error})") from None
    objects, faults, faulty = list[VocObject](), list[str](), list[str]()
    for element in root.iter("object"):
        try:
            objects.append(_parse_object(element, first_pixel))
        except BadRecord as error:
            faults.append(str(error))
            faulty.append(_describe_object(element))
    return VocImage(_parse_size(root), objects, faults, faulty)


def _parse_size(root: ElementTree.Element) -> Size | None:
    """Return (height, width); None where they are not there or 0, as some tools write."""
    height, width = (parse_number(root.findtext(f"size/{name}")) for name in ("height", "width"))
    if height is None or width is None or not (isfinite(height) and isfinite(width)):
        return None
    return (int(height), int(width)) if height >= 1 and width >= 1 else None


def _describe_object(element: ElementTree.Element) -> str:
    """Return the class and the corners of an object as they are written."""
    corners = ((element.findtext(f"bndbox/{name}") or "").strip() for name in CORNERS)
    return f"{(element.findtext('name') or '').strip()} {', '.join(corners)}"[:MAX_SHOWN]


def _parse_object(element: ElementTree.Element, first_pixel: int) -> VocObject:
    """Return an object. Raise BadRecord where its box cannot be right."""
    numbers = [parse_number(element.findtext(f"bndbox/{name}")) for name in CORNERS]
    corners = [number for number in numbers if number is not None]
    if len(corners) != 4:
        raise BadRecord("whose bndbox is not four numbers xmin, ymin, xmax, ymax")
    if not all(map(isfinite, corners)):
        raise BadRecord("whose bndbox is not finite")
    x0, y0, x1, y1 = corners
    if x1 < x0 or y1 < y0:
        raise BadRecord("whose bndbox is reversed")
    box = (x0 - first_pixel, y0 - first_pixel, x1 - first_pixel + 1, y1 - first_pixel + 1)
    name = (element.findtext("name") or "").strip()
    return VocObject(name, box, (element.findtext("difficult") or "").strip() == "1")

"""doubtful_files: notes on images that may be copies or masks."""

from __future__ import annotations

import pytest

from pipeline.data.doubtful_files import COPIES, MASKS, count_doubtful
from pipeline.data.left_out import LeftOut


@pytest.mark.parametrize(
    ("ids", "copies", "masks"),
    [
        (["cat/1.jpg", "cat/thumbs/1.jpg", "cat/thumbs/2.jpg"], ["cat/thumbs"], []),
        (["cat/1.jpg", "cat/Backup/old/1.jpg"], ["cat/Backup"], []),
        (["cat/1.jpg", "Thumbnails/1.jpg"], ["Thumbnails"], []),
        (["glass/1.jpg", "paper/1.jpg", "trash/1.jpg"], [], []),  # classes of waste
        (["cat/1.jpg", "cat/1_mask.png", "cat/2_mask.png"], [], ["cat/1_mask.png"]),
        (["cat/b (1).png", "cat/b (1)_mask_1.png"], [], ["cat/b (1)_mask_1.png"]),
        (["cat/images/1.jpg", "cat/masks/1.png", "cat/masks/9.png"], [], ["cat/masks/1.png"]),
        (["images/cat/1.jpg", "masks/cat/1_mask.png"], [], ["masks/cat/1_mask.png"]),
        (["cat/1.jpg", "cat/GT/1.png"], [], ["cat/GT/1.png"]),
        (["mask/1.jpg", "no_mask/1.jpg"], [], []),  # classes of faces
        (["cat/seg.jpg", "cat/a_b.jpg", "cat/a.jpg"], [], []),
        (["1.jpg", "1-gt.png"], [], ["1-gt.png"]),
    ],
)
def test_what_is_counted(ids: list[str], copies: list[str], masks: list[str]) -> None:
    left_out = LeftOut()
    count_doubtful(ids, left_out)
    counted = {COPIES: copies, MASKS: masks}
    assert left_out.names == {reason: names for reason, names in counted.items() if names}


def test_the_lines() -> None:
    left_out = LeftOut()
    count_doubtful(["a/1.jpg", "a/1_mask.png", "a/cache/1.jpg"], left_out)
    assert left_out.notes() == [
        "a/cache: read, although the name is one of folders with copies of images; move "
        "those with copies out of the data set, or begin their names with a dot",
        "1 image ('a/1_mask.png'): read, although the name is that of a mask of another image; "
        "if they are masks, move them out of the folders of images",
    ]

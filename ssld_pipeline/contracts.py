"""Every table: its columns, their types, meanings and units. Readers outside this package rely on this file.

A table's columns are its contract plus ``part``, the unit of work that wrote the row. The published form is
``schemas/<table>.json``; a test keeps both equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

ROLES = ("labeled", "protected", "pool", "teacher")  # teacher: labelled images that only fit_teacher sees

REJECT_REASONS = {
    "unreadable": "the file or folder cannot be opened or read (missing, permission, I/O error)",
    "empty_file": "zero bytes",
    "not_an_image": "the bytes are of no image format this pipeline decodes",
    "truncated_image": "the image ends before its last pixel",
    "corrupt_image": "the decoder refused the bytes",
    "deadly_image": "decoding it ended the process (a crash, or more memory than there is), or took minutes",
    "too_many_pixels": "the header announces more pixels than the limit (decompression bomb)",
    "too_small": "the shorter side is below the limit",
    "truncated_archive": "a tar or Parquet file ends early or is damaged; what precedes the damage is used",
    "unsupported_member": "a tar member without bytes of its own in one piece: sparse, a link to no member, a device",
    "nested_archive": "an archive within a tar: its images are not read before the outer one is unpacked",
    "other_format": "an image or archive in a folder of tars or of Parquet files, which is read as neither",
    "companion": "an image of a webdataset sample that is not its picture, such as a mask or a thumbnail; not lost",
    "unsafe_name": "a tar member's name is absolute or leaves its folder",
    "duplicate_name": "an earlier image of the same input has this name; the first is used",
    "undecodable_name": "the name is not UTF-8; shown with replacement characters",
    "not_labelled": "a view that training wants to replay has no stored soft label",
    "unknown_class": "the label names no class of the run; of protected images, which are kept, a row counts a shard's",
    "empty_class": "a class folder holds no image",
}

VERDICTS = {
    "copy": "the evidence suffices; the image is removed",
    "no_copy": "a candidate whose evidence does not suffice, or falls behind that of another protected image",
    "reported": "a copy that is only shown: see dedupe.report_only, and dedupe.trained_on",
    "allowed": "a copy that dedupe.allow keeps",
    "denied": "removed by dedupe.deny, whatever the evidence",
    "copy_of_copy": "near-identical to a pool image that copies the protected one; removed",
    "repeat": "near-identical to a pool image that is kept, protected_id; removed",
}
REMOVED = ("copy", "denied", "copy_of_copy", "repeat")


@dataclass(frozen=True)
class Reject:
    """A row of ``rejects`` without its stage and part, which the runner knows."""

    image_id: str
    reason: str
    detail: str = ""

    @property
    def num_lost(self) -> int:
        """Images that are lost with it."""
        return 1


@dataclass(frozen=True)
class RejectOfMany(Reject):
    """``num_images``: estimated, of an archive; None for a folder that cannot be listed, where it is unknown; 0 for a
    companion, which is no image of the catalog."""

    num_images: int | None = None

    @property
    def num_lost(self) -> int:
        return 1 if self.num_images is None else self.num_images


@dataclass(frozen=True)
class Column:
    """``type`` is one of the names in ``_ARROW_TYPES``; ``unit`` is empty where there is none."""

    name: str
    type: str
    meaning: str
    unit: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    name: str
    row: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    unit: tuple[str, ...] = ("part",)
    """Columns that are constant within one Parquet part and name it."""
    zstd_level: int = 1
    """Of the Parquet files: high where rows are many, are kept for long, and take longer to make than to write."""

    metadata: tuple[tuple[str, str], ...] = ()
    """Name and meaning of what each part holds in its Parquet metadata, and the Delta table in its properties."""

    def schema(self) -> pa.Schema:
        """The Arrow schema of one part, ``part`` last."""
        import pyarrow as pa

        return pa.schema([pa.field(c.name, _arrow_type(c.type), nullable=c.nullable) for c in self.columns])

    def row_schema(self) -> pa.Schema:
        """Without the columns that name the part: what a stage returns."""
        import pyarrow as pa

        return pa.schema([field for field in self.schema() if field.name not in self.unit])

    def published(self) -> dict[str, Any]:
        """What ``schemas/<name>.json`` holds."""
        return {
            "table": self.name,
            "row": self.row,
            "key": list(self.key),
            **({"metadata": dict(self.metadata)} if self.metadata else {}),
            "columns": [
                {"name": c.name, "type": c.type, "nullable": c.nullable, "unit": c.unit, "meaning": c.meaning}
                for c in self.columns
            ],
        }


def _arrow_type(name: str) -> pa.DataType:
    import pyarrow as pa

    return {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "bool": pa.bool_(),
        "binary": pa.binary(),
        "list<int32>": pa.list_(pa.int32()),
        "list<float32>": pa.list_(pa.float32()),
    }[name]


_IMAGE_ID = Column(
    "image_id", "string", "<input name>/<path within the input>; for a tar: shard name, then member name"
)
_PART = Column("part", "string", "unit of work that wrote this row: <input name>/<shard>#<number>")
_ADDRESS = (
    Column("uri", "string", "where the file that holds the image lies: a local path or an fsspec URI"),
    Column("offset", "int64", "first byte of the image within that file; in a Parquet file the row number", "bytes"),
    Column("size_bytes", "int64", "length of the encoded image", "bytes"),
)
_STAMP = Column("stamp", "string", "version of the holding file: its size and modification time, or its ETag")

CATALOG = Table(
    "catalog",
    "an image of an input",
    ("image_id",),
    (
        _IMAGE_ID,
        Column("role", "string", "labeled, protected, pool, or teacher (seen by fit_teacher alone)"),
        *_ADDRESS,
        Column("class_id", "int32", "line of the class list, counted from 0; null for the pool", nullable=True),
        _STAMP,
        _PART,
    ),
)

_SEARCHED_ROLE = Column(
    "role",
    "string",
    "role of the image: pool, or labeled or teacher where it is trained on; null in older tables, for pool",
    nullable=True,
)
_PAIR = (
    _IMAGE_ID,
    Column("protected_id", "string", "image_id of the protected image"),
    Column(
        "method",
        "string",
        "what proposed the pair: exact (equal bytes), perceptual (alike as a whole, perhaps with key points), or sift",
    ),
    Column("num_matches", "int32", "putative descriptor matches after one-to-one matching"),
    Column("num_inliers", "int32", "matches that agree with the transform, at distinct positions"),
    Column(
        "score",
        "float32",
        "how well the pixels agree after warping, where nothing is drawn over them, in [0,1]; 1 for exact",
    ),
    Column("num_blocks", "int32", "cells with edges, of the 256 of what the pool image shows of the protected one"),
    Column("coverage", "float32", "share of the protected image that the pool image shows, in [0,1]"),
    Column(
        "explained",
        "float32",
        "share of what can be seen of the protected image that one tone curve gives from the pool image, beyond what "
        "one grey gives; null where it was not measured",
        nullable=True,
    ),
    Column(
        "homography",
        "list<float32>",
        "row-major 3x3 from pool pixels to protected pixels; null without one",
        nullable=True,
    ),
    Column("flipped", "bool", "the pool image is mirrored"),
)

PAIRS = Table(
    "pairs",
    "a pool image, or one that is trained on, and a protected image whose pixels were compared: the evidence",
    ("image_id", "protected_id"),
    (*_PAIR, _SEARCHED_ROLE, _PART),
)

LOOKS = Table(
    "looks",
    "how a pool image looks, in short; where dedupe.within_pool is on",
    ("image_id",),
    (
        _IMAGE_ID,
        Column("digest", "string", "16 bytes of BLAKE2b of the encoded image, in hexadecimal"),
        Column("width", "int32", "of the upright image", "pixels"),
        Column("height", "int32", "of the upright image", "pixels"),
        Column("thumbnail", "binary", "32x32 grey levels, row by row; the sides are squeezed to the same length"),
        _PART,
    ),
)

REPEATS = Table(
    "repeats",
    "a pool image and a better one of the pool that it is near-identical to, pixel by pixel",
    ("image_id", "other_id"),
    (
        _IMAGE_ID,
        Column("other_id", "string", "image_id of the better one: more pixels, then more bytes, then the smaller id"),
        Column("method", "string", "what proposed the pair: exact (equal bytes) or perceptual"),
        *_PAIR[5:7],
        Column("coverage", "float32", "share of the better image that the other one shows, in [0,1]"),
        Column("homography", "list<float32>", "row-major 3x3 from its pixels to those of the better one"),
        Column(
            "rank",
            "int32",
            "place among the images whose group is that of other_id, by preference, from 1; null for a pair of two "
            "groups. An image has one such place, or is itself the best of a group, or in none",
            nullable=True,
        ),
        _PART,
    ),
)

DUPLICATES = Table(
    "duplicates",
    "an image and the protected image it may copy, or the pool image it repeats, decided",
    ("image_id", "protected_id"),
    (
        _IMAGE_ID,
        Column(
            "protected_id",
            "string",
            "image_id of the protected image; of a repeat, of the pool image that is kept; null for a denied image "
            "without a pair",
            nullable=True,
        ),
        Column("method", "string", "what proposed the pair: exact, sift or perceptual; denied where there is no pair"),
        *_PAIR[3:],
        _SEARCHED_ROLE,
        Column(
            "verdict",
            "string",
            "one of: " + "; ".join(f"{name} ({says.replace(';', ',')})" for name, says in VERDICTS.items()),
        ),
        Column(
            "is_duplicate",
            "bool",
            f"the verdict is {' or '.join(REMOVED)}: the image is in no soft_labels, no manifest and no training",
        ),
        _PART,
    ),
)

_TEACHER = (
    "ssld.teacher",
    "JSON, who labelled. networks: of each its model, model_args, image_size (pixels), mean, std, licence, "
    "temperature, weight, and the digests of its weights and class_map. combine: arithmetic or geometric mean of their "
    "distributions. "
    "crop_pct: image_size over the resized short side, then the central square. amp: bfloat16 where a GPU labelled. "
    "fitted: the weights are those that fit_teacher made. classes: count and digest of the class list. "
    "Digests are 16 hex digits of BLAKE2b",
)

SOFT_LABELS = Table(
    "soft_labels",
    "one view of one image seen by the teacher: a pool image, or a labeled one where training replays views",
    ("image_id", "view"),
    (
        _IMAGE_ID,
        Column("view", "int32", "0: the evaluation view (resize, centre crop); 1, 2, ...: augmented views"),
        Column("top1_class", "int32", "class of the largest probability"),
        Column("top1_prob", "float32", "the largest probability"),
        Column("entropy", "float32", "entropy of the full distribution, to 11 significant bits", "nats"),
        Column("class_ids", "list<int32>", "the num_kept most probable classes, by falling probability"),
        Column("probs", "list<float32>", "their probabilities, rounded towards zero to 8 significant bits"),
        Column(
            "tail_prob",
            "float32",
            "probability of all other classes, before rounding, so that probs times (1 - tail_prob) / sum(probs) and "
            "tail_prob sum to 1; in parts of older programs 1 minus the sum of the rounded probs",
        ),
        Column("crop_left", "float32", "left edge of the view in the upright source image", "pixels"),
        Column("crop_top", "float32", "top edge of the view in the upright source image", "pixels"),
        Column("crop_width", "float32", "width of the view in the upright source image", "pixels"),
        Column("crop_height", "float32", "height of the view in the upright source image", "pixels"),
        Column("flipped", "bool", "the view is mirrored"),
        Column("brightness", "float32", "factor of the view's brightness, applied first; 1 changes nothing"),
        Column("contrast", "float32", "factor of its contrast, about its mean grey; 1 changes nothing"),
        Column("saturation", "float32", "factor of its saturation, about each pixel's grey; 1 changes nothing"),
        _PART,
    ),
    zstd_level=15,
    metadata=(_TEACHER,),
)

MANIFEST = Table(
    "manifest",
    "an image the student is trained on",
    ("image_id",),
    (
        _IMAGE_ID,
        Column("role", "string", "labeled or pool"),
        *_ADDRESS,
        Column("class_id", "int32", "labeled: its label; pool: the class it was mined for"),
        Column("score", "float32", "the teacher's probability of class_id; null for labeled images", nullable=True),
        Column("rank", "int32", "1 is the best mined image of its class; null for labeled images", nullable=True),
        _STAMP,
        _PART,
    ),
)

REJECTS = Table(
    "rejects",
    "an image, or a piece of an input, that a stage could not use",
    ("image_id", "stage"),
    (
        Column("image_id", "string", "as in catalog; of a shard or folder as a whole its own name"),
        Column("stage", "string", "the stage that could not use it"),
        Column("reason", "string", "one of: " + ", ".join(REJECT_REASONS)),
        Column("detail", "string", "what exactly was found, for a person"),
        _PART,
    ),
    unit=("stage", "part"),
)

EVALUATIONS = Table(
    "evaluations",
    "one model measured on one protected input at one size",
    ("model", "input", "image_size", "weights"),
    (
        Column("model", "string", "teacher, or the name of the training that made the model"),
        Column("input", "string", "name of the protected input"),
        Column(
            "image_size", "int32", "side of the centre crop; null in rows of earlier versions", "pixels", nullable=True
        ),
        Column(
            "weights",
            "string",
            "last: those of the last step; null in rows of earlier versions, the same",
            nullable=True,
        ),
        Column("num_images", "int64", "images with a class that could be decoded", "images"),
        Column("top1", "float32", "share of images whose most probable class is the label, in [0,1]"),
        Column("top5", "float32", "share of images whose label is among the five most probable, in [0,1]"),
        Column("num_parameters", "int64", "size of the model", "parameters"),
        _PART,
    ),
    metadata=(_TEACHER,),
)

TABLES = {t.name: t for t in (CATALOG, PAIRS, LOOKS, REPEATS, DUPLICATES, SOFT_LABELS, MANIFEST, REJECTS, EVALUATIONS)}

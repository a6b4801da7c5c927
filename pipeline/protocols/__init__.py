"""What a choice of each family must satisfy, from data sets and networks to views."""

from pipeline.protocols.audit import AuditTest
from pipeline.protocols.data import (
    AnnotatedDataSet,
    DataSet,
    HasBackgrounds,
    HasClassFolders,
    HasCommonFolder,
    HasFiles,
    HashesCocoNames,
    HasNegatives,
    HasSeveralLabels,
    ReadsDrawnBoxes,
    ScalesDeepImages,
)
from pipeline.protocols.exporter import Exporter
from pipeline.protocols.metric import Metric
from pipeline.protocols.network import (
    BuildsFeatures,
    Network,
    NetworkBuilder,
    RebuildableBranch,
    RunsInParts,
    TrainedNetwork,
)
from pipeline.protocols.objective import LearnsLabelSets, Objective, WrappingObjective
from pipeline.protocols.saliency import FittableMethod, SaliencyMethod
from pipeline.protocols.segmenter import RefiningSegmenter, Segmenter
from pipeline.protocols.visualize import View

__all__ = [
    "AnnotatedDataSet",
    "AuditTest",
    "BuildsFeatures",
    "DataSet",
    "Exporter",
    "FittableMethod",
    "HasBackgrounds",
    "HasClassFolders",
    "HasCommonFolder",
    "HasFiles",
    "HasNegatives",
    "HasSeveralLabels",
    "HashesCocoNames",
    "LearnsLabelSets",
    "Metric",
    "Network",
    "NetworkBuilder",
    "Objective",
    "ReadsDrawnBoxes",
    "RebuildableBranch",
    "RefiningSegmenter",
    "RunsInParts",
    "SaliencyMethod",
    "ScalesDeepImages",
    "Segmenter",
    "TrainedNetwork",
    "View",
    "WrappingObjective",
]

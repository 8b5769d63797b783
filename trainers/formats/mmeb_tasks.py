"""MMEB-V2's data sets and those of its training sets, by name; and the groups of them that share a temperature."""

from __future__ import annotations

from collections.abc import Mapping

# RzenEmbed section 3.4.2 learns a temperature for each of seven tasks, but does not list what belongs to which;
# the names of MMEB-V2 (Jiang et al. 2025) do for most. Ours: video classification and moment retrieval count as
# video retrieval, since their candidates are texts or clips and no question is asked.
_MEMBERS: dict[str, tuple[str, ...]] = {
    "image_classification": (
        "ImageNet_1K", "ImageNet-1K", "N24News", "HatefulMemes", "VOC2007", "SUN397", "Place365", "ImageNet-A",
        "ImageNet-R", "ObjectNet", "Country211",
    ),
    "image_qa": (
        "OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W", "ScienceQA", "VizWiz", "GQA",
        "TextVQA",
    ),
    "image_retrieval": (
        "VisDial", "CIRR", "VisualNews_t2i", "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t", "NIGHTS", "WebQA",
        "FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS",
    ),
    "image_grounding": ("MSCOCO", "RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing"),
    "document_retrieval": (
        "colpali_train_set", "VisRAG-Ret-Train-In-domain-data", "VisRAG-Ret-Train-Synthetic-data",
        "ViDoRe_arxivqa", "ViDoRe_docvqa", "ViDoRe_infovqa", "ViDoRe_tabfquad", "ViDoRe_tatdqa",
        "ViDoRe_shiftproject", "ViDoRe_syntheticDocQA_artificial_intelligence", "ViDoRe_syntheticDocQA_energy",
        "ViDoRe_syntheticDocQA_government_reports", "ViDoRe_syntheticDocQA_healthcare_industry",
        "ViDoRe_esg_reports_human_labeled_v2", "ViDoRe_biomedical_lectures_v2_multilingual",
        "ViDoRe_economics_reports_v2_multilingual", "ViDoRe_esg_reports_v2_multilingual", "VisRAG_ArxivQA",
        "VisRAG_ChartQA", "VisRAG_MP-DocVQA", "VisRAG_SlideVQA", "VisRAG_InfoVQA", "VisRAG_PlotQA",
        "ViDoSeek-page", "ViDoSeek-doc", "MMLongBench-page", "MMLongBench-doc",
    ),
    "video_retrieval": (
        "video_caption_300k", "video_caption_300k-video", "video_caption_300k-t2v", "video_caption_300k-v2t",
        "DiDeMo", "MSR-VTT", "MSVD", "VATEX", "YouCook2", "QVHighlight", "Charades-STA", "MomentSeeker", "K700",
        "SmthSmthV2", "HMDB51", "UCF101", "Breakfast",
    ),
    "video_qa": ("video_qa_240k", "MVBench", "Video-MME", "NExTQA", "EgoSchema", "ActivityNetQA"),
}  # fmt: skip

TASK_GROUPS: dict[str, Mapping[str, str]] = {
    "rzenembed": {name: group for group, names in _MEMBERS.items() for name in names}
}
"""Groupings by name, for a recipe: data set -> its group, here one of RzenEmbed's seven tasks."""


def group_names(grouping: str) -> list[str]:
    """The groups of a grouping, each once, in a fixed order. Raises ValueError for an unknown grouping."""
    return list(dict.fromkeys(_grouping(grouping).values()))


def group_of(name: str, grouping: str) -> str:
    """The group of a data set; a group's own name stays. A repository's owner (``vidore/...``) is left out.

    Raises ValueError for a data set that no group holds.

    >>> group_of("MSCOCO_t2i", "rzenembed")
    'image_retrieval'
    """
    groups = _grouping(grouping)
    short = name.rpartition("/")[2]
    if short in groups:
        return groups[short]
    if name in groups.values():
        return name
    raise ValueError(
        f"{name!r} belongs to no group of {grouping!r}; name one of {group_names(grouping)} in the row instead"
    )


def _grouping(grouping: str) -> Mapping[str, str]:
    if grouping not in TASK_GROUPS:
        raise ValueError(f"unknown task grouping {grouping!r}; known are {sorted(TASK_GROUPS)}")
    return TASK_GROUPS[grouping]

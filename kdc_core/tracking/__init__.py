"""Lasting ids for people: association by pose, mask and motion, over time in seconds. numpy and SciPy only."""

from kdc_core.tracking.options import TrackerOptions
from kdc_core.tracking.tracker import Tracker
from kdc_core.tracking.types import FrameTracks, Track, TrackedPeople, TrackerCounts, TrackState

__all__ = ["FrameTracks", "Track", "TrackState", "TrackedPeople", "Tracker", "TrackerCounts", "TrackerOptions"]

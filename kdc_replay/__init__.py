"""Judging a perception system from recordings: bags in; runs, scores, reports, comparisons out. No ROS, no torch."""

"""Judging a perception system from recordings: tracking scores, comparisons. No ROS and no torch at import."""

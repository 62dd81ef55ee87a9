"""Stand-ins for ROS packages that are not installed everywhere; each behaves as what it stands for."""

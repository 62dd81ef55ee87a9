"""The ROS 2 side of KDC: node, messages, images, markers. The only package that imports rclpy."""

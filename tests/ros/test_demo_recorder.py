"""The demo's recorder asks for pictures only when it hears the node: else the first answers would be nobody's."""

import time


def test_subscribes_to_the_camera_after_all_results(ros):
    import rclpy
    from kdc.msg import InstanceMaskArray, PoseArray
    from visualization_msgs.msg import MarkerArray

    from kdc_ros.demo.camera import TOPIC
    from kdc_ros.demo.recorder import Recorder

    node = rclpy.create_node("late_node")
    recorder = Recorder("late_node")
    try:

        def asked_for_pictures(seconds: float) -> bool:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                recorder.spin(0.05)
                if any(i.node_name == recorder.get_name() for i in node.get_subscriptions_info_by_topic(f"/{TOPIC}")):
                    return True
            return False

        assert not asked_for_pictures(0.5)
        node.create_publisher(PoseArray, "late_node/poses", 10)
        node.create_publisher(InstanceMaskArray, "late_node/masks", 10)
        assert not asked_for_pictures(1.0), "the markers are not there yet"
        node.create_publisher(MarkerArray, "late_node/markers", 10)
        assert asked_for_pictures(20.0)
    finally:
        recorder.destroy_node()
        node.destroy_node()

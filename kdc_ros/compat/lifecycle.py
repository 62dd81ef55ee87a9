"""rclpy's lifecycle as newer releases have it: a transition that is not possible is refused, the node goes on."""

from __future__ import annotations

from typing import Any

import rclpy
from rclpy.lifecycle import LifecycleNodeMixin, TransitionCallbackReturn


class LifecycleMixin(LifecycleNodeMixin):
    """LifecycleNodeMixin whose refused transitions are answered with "no success" in every release.

    Up to Jazzy rclpy let the error of its state machine out into the executor (ros2/rclpy#1209), so that any request
    for an impossible transition, such as to configure an active node, ended the process.
    """

    def __init__(self, **options: Any) -> None:
        """`options`: of LifecycleNodeMixin."""
        super().__init__(**options)

    # What rclpy's `__change_state` is called outside its class; the services and `trigger_...` all go through it.
    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:
        try:
            return super()._LifecycleNodeMixin__change_state(transition_id)
        except RuntimeError as error:  # rclpy's RCLError
            if not rclpy.ok():
                raise
            state = self._state_machine.current_state[1]
            self.get_logger().error(f"transition {transition_id} is not possible from '{state}': {error}")
            return TransitionCallbackReturn.ERROR

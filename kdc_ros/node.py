"""The ROS 2 lifecycle node: transitions, services, timers. Executable: kdc_node.

Subscribes  image (raw or compressed), camera_info, depth (see kdc_ros.inputs)
Publishes   ~/poses, ~/masks, ... (see kdc_ros.outputs), ~/latency, /diagnostics
Services    ~/enable (std_srvs/SetBool), ~/reset_tracking (std_srvs/Trigger), and those of every lifecycle node
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import NoReturn

import rclpy
import rclpy.logging
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.task import Future
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import SetBool, Trigger

from kdc_ros.compat.lifecycle import LifecycleMixin
from kdc_ros.executor import SlowGroupsExecutor
from kdc_ros.frame_processor import FAULT_LOG_PERIOD_S, FrameProcessor
from kdc_ros.frame_statistics import FrameStatistics
from kdc_ros.health import Health
from kdc_ros.image_subscription import Departures
from kdc_ros.inputs import KEPT_CALIBRATIONS, Inputs
from kdc_ros.latency import LatencyOutput
from kdc_ros.log_forwarding import LogForwarding
from kdc_ros.monitor import FrameMonitor
from kdc_ros.network import Interrupted, Network, StartupError
from kdc_ros.outputs import Outputs
from kdc_ros.parameters import ACTIVE, LOADED, NodeParameters, SettingsError
from kdc_ros.qos import MismatchLog, has_incompatible_peer
from kdc_ros.tracking import TrackIds

# A frame in the network is waited for when the process ends; a native call that takes longer is abandoned.
STOP_TIMEOUT_S = 0.5
WATCH_PERIOD_S = 0.5
# A transition, the watch, and a question for the state: none may hold up another.
SLOW_THREADS = 3

_UNSUBSCRIBED = "cannot subscribe"

SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)
Transition = Callable[["PeopleNode", LifecycleState], TransitionCallbackReturn]


def _told(transition: Transition) -> Transition:
    """Log what escapes a transition, which rclpy would swallow, and report it as an error."""

    @functools.wraps(transition)
    def guarded(node: PeopleNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:  # noqa: BLE001 - ends in error processing
            if node.context.ok():
                node.get_logger().error(f"{transition.__name__} failed:\n{traceback.format_exc()}")
            node.fault = f"{transition.__name__} failed: {error}"
            return ERROR

    return guarded


class PeopleNode(LifecycleMixin, Node):
    """Finds the people in an image stream.

    configure:  loads the network (in the inference thread).
    activate:   loads it again where deactivate has freed it; makes the publishers, then subscribes.
    deactivate: unsubscribes, ends the work and frees the network.
    cleanup, shutdown, and errors: free everything; after an error the node is unconfigured.

    fault: why the last transition did not succeed; "" when it did.
    ended: done when a node that starts by itself cannot go on; `fault` says why.
    """

    def __init__(self, **node_options) -> None:
        Node.__init__(self, "kdc", **node_options)
        # Transitions may take long (loading): meanwhile the state can be asked for, and another be refused.
        transitions, watching = ReentrantCallbackGroup(), MutuallyExclusiveCallbackGroup()
        LifecycleMixin.__init__(self, callback_group=transitions)
        self.slow_groups = (transitions, watching)
        self.fault = ""
        self.ended: Future = Future()
        self._log_forwarding = LogForwarding(self.get_logger()).open()
        try:
            self.parameters = NodeParameters(self, self._in_phase)
        except SettingsError as error:
            raise StartupError(str(error)) from error
        self._autostart = self.parameters.current().autostart
        self._starting = False
        self._enabled = True
        self._subscribing = threading.Lock()
        self._inputs: Inputs | None = None
        self._monitor: FrameMonitor | None = None
        self._mismatches = MismatchLog(self.get_logger(), lambda topic: has_incompatible_peer(self, topic))
        self._departures = Departures()
        self._calibrations: deque[CameraInfo] = deque(maxlen=KEPT_CALIBRATIONS)
        self._statistics = FrameStatistics()
        self._outputs = Outputs(self, self._mismatches, self._statistics)
        self._latency = LatencyOutput(self, self._mismatches)
        self._track_ids = TrackIds()
        self._network = Network(
            self._new_processor().process, self.parameters.current, self.context.ok,
            self._statistics.count_discarded,
        )
        self._health = Health(self, self._statistics, self._mismatches, platform.node())
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.create_service(Trigger, "~/reset_tracking", self._on_reset_tracking)
        self._every(WATCH_PERIOD_S, self._watch, watching)
        self._every(self._health.PERIOD_S, self._publish_health, self.default_callback_group)
        if self._autostart:
            self._starter = self._every(0.0, self._start, transitions)

    @property
    def state_label(self) -> str:
        """The lifecycle state: "unconfigured", "inactive", "active", ..."""
        return self._state_machine.current_state[1]

    def destroy_node(self) -> None:
        """Free what the node holds in ROS."""
        self._log_forwarding.close()
        super().destroy_node()
        # rclpy leaves it to the garbage collector, and with it the node that it holds: others would see it for long.
        self._state_machine.destroy_when_not_in_use()

    def stop(self) -> bool:
        """End the inference thread. Returns False when it is still in a native call."""
        return self._network.stop(STOP_TIMEOUT_S)

    def end(self) -> None:
        """Have `spin` return."""
        if not self.ended.done():
            self.ended.set_result(None)

    # --- transitions ---

    @_told
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network."""
        return self._load()

    @_told
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin the work."""
        loaded = self._load()
        if loaded is not SUCCESS:
            return loaded
        self._mismatches.forget()
        self._track_ids.reset()
        self._outputs.activate()
        self._latency.activate()
        self._unsubscribe()  # from whatever ~/enable made while the last deactivation was under way
        self._subscribe_if_enabled()
        return SUCCESS

    @_told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the work and free the network."""
        broken = self._network.error
        if not self._release():
            self.fault = "the network is still busy with a frame; it is freed when that is done"
            self.get_logger().error(self.fault)
            return ERROR
        if broken is not None:
            return ERROR
        self.get_logger().info("deactivated: the network is freed")
        return SUCCESS

    @_told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything."""
        self.fault = ""
        return SUCCESS if self._release() else ERROR

    @_told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, for good."""
        self._release()
        return SUCCESS

    @_told
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a fault: free everything; the node is unconfigured then."""
        self._release()
        return SUCCESS

    def _load(self) -> TransitionCallbackReturn:
        fresh = not self._network.loaded
        try:
            self._network.load()
        except Interrupted:
            return FAILURE
        except StartupError as error:
            self.fault = str(error)
            if not self._starting:  # else it is the last word of the process
                self.get_logger().error(self.fault)
            return FAILURE
        self.fault = ""
        if fresh:
            told = self._network.description
            self.get_logger().info(f"network {told['model']} ({told['network input']}) on {told['backend']}")
        return SUCCESS

    def _release(self) -> bool:
        self._unsubscribe()
        freed = self._network.free()
        self._latency.close()
        self._outputs.close()
        return freed

    # --- what happens by itself ---

    def _every(self, period_s: float, callback: Callable[[], None], group: CallbackGroup) -> Timer:
        """A timer on a clock that always runs, simulated time or not."""
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        return self.create_timer(period_s, callback, callback_group=group, clock=clock)

    def _start(self) -> None:
        self._starter.cancel()
        self._starting = True
        started = self.trigger_configure() is SUCCESS and self.trigger_activate() is SUCCESS
        self._starting = False
        # Without a fault of its own, somebody else's transition came in between: then it is theirs.
        if not started and self.fault:
            self.end()

    def _watch(self) -> None:
        error = self._network.error
        if error is not None and self.state_label == "active":
            self.fault = f"the inference thread ended: {type(error).__name__}: {error}"
            told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self.get_logger().error(f"{self.fault}\n{told}")
            self.trigger_deactivate()
            if self._autostart:
                self.end()
        with self._subscribing:
            if self._inputs is not None and self._monitor is not None:
                try:
                    self._inputs.adapt()
                    self._forget_unsubscribed()
                except Exception as fault:  # noqa: BLE001 - tried again at the next look
                    self._tell_unsubscribed(fault)
                self._monitor.check()

    def _publish_health(self) -> None:
        with self._subscribing:
            inputs = self._inputs
        self._health.publish(
            state=self.state_label,
            fault=self.fault,
            enabled=self._enabled,
            network=self._network,
            inputs=inputs,
            settings=self.parameters.current(),
        )

    # --- services ---

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = bool(request.data)
        if self.state_label in ("active", "activating"):
            if self._enabled:
                try:
                    self._subscribe_if_enabled()
                except Exception as error:  # noqa: BLE001 - the caller is to have an answer
                    self._enabled = False
                    self._tell_unsubscribed(error)
                    response.success, response.message = False, self.fault
                    return response
            else:
                self._unsubscribe()
                self._forget_unsubscribed()
                if (mailbox := self._network.mailbox) is not None:
                    mailbox.clear()
        response.success = True
        response.message = f"{'working' if self._enabled else 'paused'} ({self.state_label})"
        return response

    def _on_reset_tracking(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._track_ids.reset()
        response.success = True
        response.message = "tracks start afresh with the next frame"
        return response

    # --- parts ---

    def _in_phase(self, phase: str) -> bool:
        if phase == LOADED:
            return self._network.loaded
        return phase == ACTIVE and self.state_label in ("active", "activating")

    def _subscribe_if_enabled(self) -> None:
        with self._subscribing:
            mailbox = self._network.mailbox
            if self._inputs is not None or mailbox is None or not self._enabled:
                return
            settings = self.parameters.current()
            inputs = Inputs(
                self, settings, self._statistics, self._mismatches, self._departures, self._calibrations
            )
            try:
                inputs.open(mailbox)
            except Exception:
                inputs.close()  # of the part that was made
                raise
            self._monitor = FrameMonitor(
                inputs.topic_name,
                self._statistics,
                self.get_logger(),
                timeout_s=lambda: self.parameters.current().no_frame_timeout_s,
                publishers=inputs.publisher_count,
                others=inputs.other_types,
            )
            self._inputs = inputs
            self.get_logger().info(f"waiting for images on '{inputs.topic_name}'")

    def _tell_unsubscribed(self, error: Exception) -> None:
        """Say that the subscriptions cannot be made. Raises the error once ROS is shut down."""
        if not self.context.ok():
            raise error
        self.fault = f"{_UNSUBSCRIBED}: {' '.join(str(error).split())}"
        self.get_logger().error(self.fault, throttle_duration_sec=FAULT_LOG_PERIOD_S)

    def _forget_unsubscribed(self) -> None:
        if self.fault.startswith(_UNSUBSCRIBED):
            self.fault = ""

    def _unsubscribe(self) -> None:
        with self._subscribing:
            inputs, self._inputs, self._monitor = self._inputs, None, None
            if inputs is not None:
                inputs.close()

    def _new_processor(self) -> FrameProcessor:
        return FrameProcessor(
            self._outputs,
            self._track_ids,
            self.parameters.current,
            self._statistics,
            self.get_clock(),
            self.get_logger(),
            self._latency.publish,
        )


def _init_ros(args: list[str] | None) -> None:
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # rclpy's own exceptions derive from it
        raise StartupError(f"ROS arguments: {error}") from error


def spin(node: PeopleNode) -> None:
    """Work until the node ends by itself. Raises ExternalShutdownException when ROS is shut down."""
    executor = SlowGroupsExecutor(node.slow_groups, SLOW_THREADS, node.context)
    executor.add_node(node)
    try:
        while not node.ended.done():  # the watch sees to it that this is asked again and again
            executor.spin_once()
    finally:
        executor.shutdown(0.0)


def run(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop. Returns the exit code: 0, or 1 when it could not start or go on.

    In the main thread: once it has ended, the process does not listen to SIGINT any more.
    """
    logger = rclpy.logging.get_logger("kdc")
    node = None
    code = 0
    try:
        _init_ros(args)
        node = PeopleNode()
        spin(node)
        if rclpy.ok() and node.ended.done():
            raise StartupError(node.fault)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (StartupError, ParameterException) as error:  # the latter of qos_overrides
        logger.fatal(" ".join(str(error).split()))
        code = 1
    except RuntimeError:  # rclpy's own exceptions derive from it
        # Whatever is made or published after a signal has shut ROS down fails.
        if rclpy.ok():
            raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, lambda *_: None)  # a second Ctrl-C must not break off what the first began
        if node is not None:
            node.stop()
            node.destroy_node()
        rclpy.try_shutdown()
    return code


def main(args: list[str] | None = None) -> NoReturn:
    """Run the node, then end the process with the exit code of `run`."""
    code = run(args)
    # Not by way of Python's own end: it takes half a second to free what is freed anyway, and would unload native
    # code under a thread that is still inside it.
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)  # the log's lines, where they go to stdout
    os._exit(code)


if __name__ == "__main__":
    main()

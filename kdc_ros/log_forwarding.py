"""What the packages without ROS log (which runtime was taken and why, an engine being built) in the node's own log."""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger

_PACKAGE = "kdc_core"


class LogForwarding(logging.Handler):
    """Passes the log of kdc_core on to a ROS logger, from `open` to `close`; any thread may log."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__(logging.INFO)
        self._logger = logger
        self._source = logging.getLogger(_PACKAGE)

    def open(self) -> LogForwarding:
        """Begin."""
        self._source.setLevel(logging.INFO)
        self._source.addHandler(self)
        return self

    def close(self) -> None:
        """End. Again is no error."""
        self._source.removeHandler(self)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record by its level."""
        # rclpy tells call sites apart and lets none change its level: one line of code for each.
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)

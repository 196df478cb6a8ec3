"""Whether a configuration can work: all of it is checked together, all problems are told at once."""

from bus.runtime.validation.completion import completed
from bus.runtime.validation.forecast import Forecast
from bus.runtime.validation.report import Report, validate
from bus.runtime.validation.systems import SecretCheck, System, Systems

__all__ = ["Forecast", "Report", "SecretCheck", "System", "Systems", "completed", "validate"]

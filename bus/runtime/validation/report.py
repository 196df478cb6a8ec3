"""All checks together."""

import msgspec

from bus.core.configuration import Configuration, ConfigurationRefused, Loaded, Problem
from bus.runtime.validation.completion import completed
from bus.runtime.validation.connections import check_connections, check_tables
from bus.runtime.validation.flows import check_flows
from bus.runtime.validation.forecast import Forecast, check_forecasts, forecasts
from bus.runtime.validation.systems import Checked, SecretCheck, Systems


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What validation found."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    forecasts: tuple[Forecast, ...]
    configuration: Configuration
    """Completed when there are no problems, else as loaded."""

    def accepted(self) -> Configuration:
        """The completed configuration. Raises ConfigurationRefused with all problems."""
        if self.problems:
            raise ConfigurationRefused(self.problems)
        return self.configuration


def validate(loaded: Loaded, systems: Systems, secrets: SecretCheck) -> Report:
    """Checks everything; nothing is called, nothing is written."""
    checked = Checked(loaded, systems)
    check_connections(checked, secrets)
    check_tables(checked)
    check_flows(checked)
    found = forecasts(loaded.configuration, systems)
    check_forecasts(checked, found)
    problems = tuple(sorted(set(checked.problems)))
    return Report(
        problems=problems,
        warnings=tuple(sorted(set(checked.warnings))),
        forecasts=tuple(found),
        configuration=loaded.configuration if problems else completed(loaded.configuration, systems),
    )

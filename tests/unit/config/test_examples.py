"""The examples run as they are: valid against the installed connectors, within the vendors' limits."""

from pathlib import Path

import pytest

from bus.core.configuration import load
from bus.core.configuration.documents import encode_document
from bus.runtime.validation import validate
from bus.runtime.validation.installed import installed_systems
from services.processors.routes import compile_routes

EXAMPLES = sorted(path for path in (Path(__file__).parents[3] / "examples").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_an_example_is_valid_and_compiles(folder):
    report = validate(load(folder), installed_systems(), lambda secret, names: [])
    assert [str(problem) for problem in report.problems] == []
    routes = compile_routes(report.accepted(), 1)
    assert sum(len(found) for found in routes.by_source.values()) == len(report.configuration.flows)
    assert all(limit.fits for forecast in report.forecasts for limit in forecast.limits)
    assert all(encode_document(document) for document in report.configuration.documents())


def test_the_pair_warns_that_documents_run_both_ways():
    report = validate(load(EXAMPLES[0].parent / "quickbooks-exact"), installed_systems(), lambda secret, names: [])
    assert ["both ways" in warning.what for warning in report.warnings] == [True]

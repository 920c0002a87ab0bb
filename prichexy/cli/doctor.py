"""`prichexy doctor`: what is missing before the main job can run."""

import json
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from prichexy import config as settings
from prichexy.cli.console import AsJson, ConfigFile, Overrides
from prichexy.errors import PrichexyError

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def doctor(overrides: Overrides = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Check that the main job could run: Ray, GPUs, secret, source, destination, MLflow, model, clock, disk.

    One line a check: ok, warning, or failed with what to do; on a cluster every node is asked, with ray.wait_cpus and
    ray.wait_gpus also those that the cluster brings up for it. Each place that the job writes to gets a probe, which is
    deleted. Exit code 1 when a check failed.

    Example: `prichexy doctor --config jobs/configs/anonymize.yaml ray.address=auto`
    """
    run_doctor(settings.load(settings.AnonymizeConfig, config, overrides or ()), as_json)


def run_doctor(config: settings.AnonymizeConfig, as_json: bool) -> None:
    """Examine, and print each finding as soon as it is known."""
    from prichexy.doctor import examine

    console, findings = Console(soft_wrap=True, highlight=False), []
    for finding in examine(config):
        findings.append(finding)
        if not as_json:
            line = Text.assemble((f"{finding.state:8}", _STYLES[finding.state]), f"{finding.check}: {finding.found}")
            if finding.mend:
                line.append(f"; mend: {finding.mend}")
            console.print(line)
    failures = [finding.check for finding in findings if finding.state == "failed"]
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings], "failed": failures}, indent=2))
    if failures:
        raise PrichexyError(f"{len(failures)} of {len(findings)} checks failed: {', '.join(failures)}")

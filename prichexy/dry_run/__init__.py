"""What a job would do, on what, how long and for how much, before it does it.

Each plan is made by the functions that the job itself begins with, so that what would refuse the job refuses the plan
in the same words. Nothing is kept anywhere: no catalog, claim, lease, run, event or database is made, no cluster is
asked to grow, and Ray is reached only where a cluster is named. What has to be tried, such as rights to write, is for
`prichexy doctor`.
"""

from prichexy.config import AnonymizeConfig, AuditConfig, CompareConfig, PromoteConfig, PublishConfig, TrainConfig
from prichexy.dry_run.plan import Plan, Rates

__all__ = ["Plan", "Rates", "plan_of"]


def plan_of(
    config: AnonymizeConfig | TrainConfig | AuditConfig | CompareConfig | PromoteConfig | PublishConfig, rates: Rates
) -> Plan:
    """The plan of the job that a configuration is of.

    Args:
        config: as the job would be given it.
        rates: what is known of speed and price.

    Raises:
        UsageError: what the job would refuse before it starts, in its words.
        PrichexyError: a store, the registry or the cluster can't be reached.
    """
    # Each job's package takes seconds to import.
    match config:
        case AnonymizeConfig():
            from prichexy.dry_run.anonymizing import plan_anonymize

            return plan_anonymize(config, rates)
        case TrainConfig():
            from prichexy.dry_run.training import plan_train

            return plan_train(config, rates)
        case AuditConfig():
            from prichexy.dry_run.auditing import plan_audit

            return plan_audit(config, rates)
        case CompareConfig():
            from prichexy.dry_run.auditing import plan_compare

            return plan_compare(config, rates)
        case PromoteConfig():
            from prichexy.dry_run.releasing import plan_promote

            return plan_promote(config)
        case PublishConfig():
            from prichexy.dry_run.releasing import plan_publish

            return plan_publish(config)

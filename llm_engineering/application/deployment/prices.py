"""What machines cost, by a table that says when it was written."""

from collections.abc import Mapping
from datetime import date
from typing import Literal

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.deployment.config import Deployment

Currency = Literal["USD"]


class PriceTable(StrictConfig):
    """``infra/aws/prices.yaml``: list prices of SageMaker's machines for an hour of hosting."""

    currency: Currency
    written: date
    source: str
    regions: Mapping[str, Mapping[str, float]]
    """Price an hour by region and instance type."""

    def find_hourly(self, region: str, instance_type: str) -> float | None:
        """Return the price of one machine for an hour; None: the table does not know it there."""
        return self.regions.get(region, {}).get(instance_type)

    def describe_source(self) -> str:
        """Return where the prices are from and of what day they are; it is shown wherever a price is."""
        return f"{self.source}; written {self.written}"


def count_instances(deployment: Deployment, copies: int) -> int:
    """Return the machines that so many copies need at least, as the component's accelerators tell; 0 for none.

    Without a component, or with one that asks for no accelerators, ``instance.count`` copies are taken to fill
    ``instance.count`` machines.
    """
    component = deployment.component
    if component is None:
        return copies
    per_machine = max(1, -(-component.copies // deployment.instance.count))
    return -(-copies // per_machine)


def estimate_range(deployment: Deployment) -> tuple[int, int, int]:
    """Return how many machines run: at first, and at least and at most as scaling and its schedules allow."""
    start, scaling = deployment.instance.count, deployment.scaling
    if scaling is None:
        return start, start, start
    least, most = scaling.copies_range
    return (
        start,
        count_instances(deployment, least),
        deployment.instance.max_count or max(count_instances(deployment, most), start),
    )

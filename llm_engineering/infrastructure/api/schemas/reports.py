"""What the list of reports gives."""

from datetime import datetime

from pydantic import BaseModel, Field


class Report(BaseModel):
    """An HTML report."""

    name: str = Field(description="Its place below /reports/.")
    made_at: datetime
    size_bytes: int


class Reports(BaseModel):
    """The reports that there are, the newest first."""

    reports: tuple[Report, ...]

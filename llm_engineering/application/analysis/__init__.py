"""Questions about records: classify, extract, explain and summarise, each finding with its evidence."""

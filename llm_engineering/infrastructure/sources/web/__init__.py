"""Pages and feeds of the open web, fetched with manners."""

"""What strangers send: pages, repositories, tables and requests that are meant to do harm, and what they must not do."""

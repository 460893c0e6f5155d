"""Where everything is kept. SQL is written once (`queries/*.sql`); transactions are generators that drivers run."""

"""What a person looks at: tables, plots, the report page, the reference of the settings."""

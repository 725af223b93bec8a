"""What a run would take and what selection saves: accounting, forecast and bench."""

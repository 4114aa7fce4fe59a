"""What is observed of endpoints: `outliers` (what live traffic says about one)."""

"""What one node does next: acceptance of commits, and the decision from (my part, observed, ledger, now)."""

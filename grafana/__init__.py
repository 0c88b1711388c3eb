"""The dashboard, the alerts, and what makes and draws them."""

"""Lets `python -m bridge.simulator` run the simulator."""

from bridge.simulator.command import simulate

if __name__ == "__main__":
    simulate()

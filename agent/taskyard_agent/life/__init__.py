"""How an agent is started, kept running, watched and ended on its machine."""
